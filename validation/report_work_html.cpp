// The work of a run on the page: when which rank did what, on which machine, and tuning's way.
#include <fmt/chrono.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <ctime>
#include <map>

#include "core/log.h"
#include "core/option.h"
#include "validation/html.h"
#include "validation/report_run_html.h"
#include "validation/svg.h"
#include "validation/svg_canvas.h"

namespace voronoi::validation {
namespace {

/// "block 7 expert.3.down": "expert.*.down".
std::string kind_of(const std::string& task) {
  std::string kind, word;
  for (const char c : task + " ") {
    const bool ends = c == ' ' || c == '.';
    if (!ends) {
      word += c;
      continue;
    }
    if (!word.empty() && word.find_first_not_of("0123456789") == std::string::npos) word = "*";
    kind += word + (c == '.' ? "." : " ");
    word.clear();
  }
  if (kind.starts_with("block * ")) kind = kind.substr(8);
  while (kind.ends_with(' ')) kind.pop_back();
  return kind;
}

struct Work {
  std::int64_t n = 0;
  double seconds = 0, longest = 0;
  void add(double spent) {
    ++n;
    seconds += spent;
    longest = std::max(longest, spent);
  }
};

/// Spans of a lane that nobody could tell apart become one.
void thin_out(std::vector<TimeSpan>& spans, double seconds) {
  constexpr std::size_t kMost = 3000;
  if (spans.size() <= kMost) return;
  std::stable_sort(spans.begin(), spans.end(), [](const TimeSpan& a, const TimeSpan& b) {
    return std::pair(a.lane, a.begin) < std::pair(b.lane, b.begin);
  });
  std::vector<TimeSpan> kept;
  for (TimeSpan& span : spans) {
    TimeSpan* before = kept.empty() ? nullptr : &kept.back();
    if (before != nullptr && before->lane == span.lane && span.begin - before->end < 5e-4 * seconds &&
        span.end - before->begin < 3e-3 * seconds) {
      before->end = std::max(before->end, span.end);
      before->tooltip = "several short tasks";
      continue;
    }
    kept.push_back(std::move(span));
  }
  spans = std::move(kept);
}

std::string time_line(const RunSection& run) {
  const RunHistory& history = run.history;
  TimeLine line;
  line.text = {"Tasks by rank over time",
               "A lane a rank, a span a task; the lane above them has the stages. The tables below have the sums."};
  std::int64_t ranks = 0;
  for (const StartHistory& start : history.starts) ranks = std::max(ranks, start.record.ranks);
  for (const TaskHistory& task : history.tasks) ranks = std::max(ranks, task.rank + 1);
  line.lanes.emplace_back("stages");
  for (std::int64_t rank = 0; rank < ranks; ++rank) line.lanes.push_back(fmt::format("rank {}", rank));
  for (const StageHistory& stage : history.stages)
    line.spans.push_back(
        {0, stage.work.begin, stage.work.end, 0, stage.stage,
         fmt::format("{}: {}", stage.stage, core::format_duration(stage.work.end - stage.work.begin))});
  std::map<std::string, int> styles;
  std::map<std::string, Work> kinds;
  std::map<std::int64_t, Work> by_rank;
  std::vector<TimeSpan> spans;
  std::map<std::int64_t, double> free_from;  // ends are journalled a little late: no two tasks of a rank overlap
  for (const TaskHistory& task : history.tasks) {
    const double seconds = task.work.end - task.work.begin;
    const double begin = std::min(task.work.end, std::max(task.work.begin, free_from[task.rank]));
    free_from[task.rank] = task.work.end;
    const std::string kind = kind_of(task.task);
    const auto style = styles.emplace(kind, static_cast<int>(styles.size()) + 1);
    if (style.second) line.legend.emplace_back(style.first->second, kind);
    kinds[kind].add(seconds);
    by_rank[task.rank].add(seconds);
    spans.push_back({static_cast<std::size_t>(task.rank + 1), begin, task.work.end, style.first->second, kind,
                     fmt::format("{}: {}{}", task.task, core::format_duration(seconds),
                                 task.width > 1 ? fmt::format(" on {} ranks", task.width) : "")});
  }
  thin_out(spans, history.seconds);
  line.spans.insert(line.spans.end(), spans.begin(), spans.end());
  for (std::size_t i = 1; i < history.starts.size(); ++i)
    line.cuts.emplace_back(history.starts[i].work.begin, fmt::format("start {}", history.starts[i].record.number));
  HtmlTable ranks_table{"Tasks by rank (a task that ranks share counts at the lowest of them)",
                        {{"rank"}, {"tasks"}, {"time in tasks"}, {"longest"}},
                        {}};
  for (const auto& [rank, work] : by_rank)
    ranks_table.rows.push_back({std::to_string(rank), std::to_string(work.n), core::format_duration(work.seconds),
                                core::format_duration(work.longest)});
  HtmlTable kinds_table{"Tasks by kind", {{"kind", false}, {"tasks"}, {"time"}, {"mean"}, {"longest"}}, {}};
  for (const auto& [kind, work] : kinds)
    kinds_table.rows.push_back({kind, std::to_string(work.n), core::format_duration(work.seconds),
                                core::format_duration(work.seconds / static_cast<double>(work.n)),
                                core::format_duration(work.longest)});
  if (history.tasks.empty() && history.stages.empty()) return "";
  return figure(draw(line), ranks_table, true) + (kinds.empty() ? "" : folded(kinds_table));
}

std::string date_text(double unix_time) {
  if (unix_time <= 0) return "-";
  return fmt::format("{:%Y-%m-%d %H:%M:%S} UTC", fmt::gmtime(static_cast<std::time_t>(unix_time)));
}

/// A value of the machine's facts as text; a list joined.
std::string fact(const core::Json& machine, const char* key) {
  if (!machine.is_object()) return "-";
  const auto found = machine.find(key);
  if (found == machine.end() || found->empty()) return "-";
  std::vector<std::string> words;
  const auto word = [](const core::Json& value) {
    return value.is_string() ? value.get<std::string>()
                             : value.dump(-1, ' ', false, core::Json::error_handler_t::replace);
  };
  if (found->is_object()) {
    constexpr std::size_t kShown = 16;
    for (const auto& [name, value] : found->items()) {
      if (words.size() == kShown) {
        words.push_back(fmt::format("and {} more", found->size() - kShown));
        break;
      }
      words.push_back(fmt::format("{} ({} ranks)", name, word(value)));
    }
  } else if (found->is_array()) {
    for (const core::Json& value : *found) words.push_back(word(value));
  } else {
    words.push_back(word(*found));
  }
  return fmt::format("{}", fmt::join(words, ", "));
}

/// The shell command of a start.
std::string command_of(const run::StartRecord& start, const std::string& directory) {
  std::string text = start.ranks > 1 ? fmt::format("mpirun -n {} ", start.ranks) : "";
  text += "voronoi quantize --run " + core::quote_for_shell(directory);
  for (const run::GivenOption& option : start.options)
    text += fmt::format(" --{} {}", option.name, core::quote_for_shell(option.value));
  return text;
}

std::string machine_part(const RunSection& run) {
  std::string out = heading(3, "Machine, versions, seed");
  HtmlTable facts{"", {{"", false}, {"", false}}, {}};
  const auto add = [&](const char* name, const std::string& value) {
    if (!value.empty() && value != "-") facts.rows.push_back({name, value});
  };
  const RunHistory& history = run.history;
  if (!history.starts.empty()) {
    const run::StartRecord& last = history.starts.back().record;
    add("Device", fact(last.machine, "device"));
    add("Processor", fact(last.machine, "processors"));
    add("GPU", fact(last.machine, "gpus"));
    add("Driver", fact(last.machine, "drivers"));
    add("Nodes", last.machine.is_object() ? fact(last.machine, "hosts") : last.host);
    add("Ranks",
        fmt::format("{}{}", last.ranks,
                    fact(last.machine, "threads") == "-" ? "" : ", threads each: " + fact(last.machine, "threads")));
    add("Version", "voronoi " + last.version);
    std::vector<std::string> packages;
    for (const auto& [name, version] : last.packages) packages.push_back(name + " " + version);
    add("Libraries", fmt::format("{}", fmt::join(packages, ", ")));
    add("Model", last.model);
  }
  const auto quantization = run.identity.find("quantization");
  if (quantization != run.identity.end() && quantization->contains("seed"))
    add("Seed", quantization->at("seed").dump());
  if (history.gpu_seconds > 0) add("GPU hours", number_text(history.gpu_seconds / 3600, 3));
  if (history.core_seconds > 0) add("Core hours", number_text(history.core_seconds / 3600, 3));
  if (history.rank_seconds > 0) add("Rank hours", number_text(history.rank_seconds / 3600, 3));
  add("Peak memory of a rank", core::format_bytes(static_cast<double>(run.peak_memory_bytes)));
  if (run.task_seconds > 0)
    add("Scheduling",
        fmt::format("{} tasks in {} of all ranks, of which ranks waited {:.2g} % and the coordinator took {:.2g} %",
                    run.n_tasks, core::format_duration(run.task_seconds), 100 * run.waiting_seconds / run.task_seconds,
                    100 * run.coordinator_seconds / run.task_seconds));
  out += table(facts);
  HtmlTable starts{"Starts",
                   {{"start"},
                    {"begun", false},
                    {"ended", false},
                    {"time"},
                    {"ranks"},
                    {"host", false},
                    {"device", false},
                    {"version", false}},
                   {}};
  for (const StartHistory& start : history.starts)
    starts.rows.push_back(
        {std::to_string(start.record.number), date_text(start.record.time),
         start.ended.empty() ? &start == &history.starts.back() ? "not when this was written" : "cut off" : start.ended,
         core::format_duration(start.work.end - start.work.begin), std::to_string(start.record.ranks),
         start.record.host, fact(start.record.machine, "device"), start.record.version});
  out += folded(starts);
  HtmlTable settings{"Settings", {{"name", false}, {"value", false}}, {}};
  for (const char* part : {"calibration", "quantization"})
    if (const auto found = run.identity.find(part); found != run.identity.end() && found->is_object())
      for (const auto& [name, value] : found->items())
        settings.rows.push_back({fmt::format("{}: {}", part, name), value.dump()});
  out += folded(settings);
  if (!history.starts.empty() && !history.starts.back().record.options.empty())
    out += fmt::format("<details><summary>The command of the last start</summary>\n<pre>{}</pre></details>\n",
                       escape_markup(command_of(history.starts.back().record, run.directory)));
  return out;
}

double number(const core::Json& json, const char* key) {
  const auto found = json.find(key);
  return found != json.end() && found->is_number() ? found->get<double>() : 0;
}

std::string whole(double value) { return fmt::format("{:.0f}", value); }

std::string block_tuning(const core::Json& phase) {
  XyPlot plot;
  plot.text = {"Held-out loss of each block before and after tuning",
               "Two marks a block; the table below has the numbers."};
  plot.x.label = "block";
  plot.y = {"held-out loss", true};
  plot.series = {{"before", 0, false, {}}, {"after", 1, false, {}}};
  HtmlTable numbers{
      "Tuning of blocks: held-out loss", {{"block"}, {"before"}, {"after"}, {"best step"}, {"end", false}}, {}};
  for (const core::Json& end : phase.at("ended")) {
    const double block = number(end, "block"), first = number(end, "first_loss"), best = number(end, "best_loss");
    plot.series[0].points.push_back({block, first, 0, ""});
    plot.series[1].points.push_back({block, best, 0, ""});
    numbers.rows.push_back({whole(block), number_text(first, 5), number_text(best, 5), whole(number(end, "best_step")),
                            end.value("end", "")});
  }
  return figure(draw(plot), numbers);
}

std::string model_tuning(const core::Json& phase, const std::string& name) {
  XyPlot plot;
  plot.text = {fmt::format("Loss over steps of the phase {}", name),
               "Training and held-out loss; the table below has the numbers."};
  plot.x.label = "step";
  plot.y.label = "loss";
  plot.series = {{"held out", 1, true, {}}, {"training, mean since the point before", 2, true, {}}};
  HtmlTable numbers{fmt::format("Tuning, {}: loss over steps", name),
                    {{"step"}, {"training loss"}, {"held-out loss"}, {"learning rate"}},
                    {}};
  for (const core::Json& point : phase.at("points")) {
    const double step = number(point, "step");
    const bool away = point.value("ran_away", false);
    if (!away) plot.series[0].points.push_back({step, number(point, "held_out_loss"), 0, ""});
    if (step > 0) plot.series[1].points.push_back({step, number(point, "training_loss"), 0, ""});
    numbers.rows.push_back({whole(step), step > 0 ? number_text(number(point, "training_loss"), 5) : "",
                            away ? "ran away" : number_text(number(point, "held_out_loss"), 5),
                            number_text(number(point, "learning_rate"), 3)});
  }
  return figure(draw(plot), numbers);
}

std::string calibration_tables(const RunSection& run) {
  HtmlTable texts{
      "Calibration texts",
      {{"text", false}, {"weight"}, {"windows"}, {"tokens"}, {"tokens of the text"}, {"duplicates left out"}},
      {}};
  for (const TextRow& row : run.texts)
    texts.rows.push_back({row.path, number_text(row.weight), std::to_string(row.windows), std::to_string(row.tokens),
                          std::to_string(row.text_tokens), std::to_string(row.duplicates)});
  HtmlTable coverage{"Tokens that experts got in calibration",
                     {{"block"}, {"experts"}, {"with Hessians of their own"}, {"least"}, {"median"}},
                     {}};
  for (const CoverageRow& row : run.coverage)
    coverage.rows.push_back({std::to_string(row.block), std::to_string(row.experts), std::to_string(row.covered),
                             std::to_string(row.least), std::to_string(row.median)});
  return (texts.rows.empty() ? "" : folded(texts)) + (coverage.rows.empty() ? "" : folded(coverage));
}

}  // namespace

std::string work_part(const RunSection& run) {
  std::string out = heading(3, "Time");
  HtmlTable stages{"Wall time by stage, all starts", {{"stage", false}, {"time"}, {"share"}}, {}};
  double sum = 0;
  for (const auto& [stage, seconds] : run.stage_seconds) sum += seconds;
  for (const auto& [stage, seconds] : run.stage_seconds)
    stages.rows.push_back(
        {stage, core::format_duration(seconds), sum > 0 ? fmt::format("{:.1f} %", 100 * seconds / sum) : "-"});
  out += table(stages) + time_line(run);
  return out + calibration_tables(run) + machine_part(run);
}

std::string tuning_part(const RunSection& run) {
  if (run.tuning.empty()) return "";
  std::string out = heading(3, "Tuning"), pictures;
  std::vector<const core::Json*> phases;  // as they followed one another
  for (const core::Json& phase : run.tuning) phases.push_back(&phase);
  std::stable_sort(phases.begin(), phases.end(),
                   [](const core::Json* a, const core::Json* b) { return number(*a, "base") < number(*b, "base"); });
  for (const core::Json* entry : phases) {
    const core::Json& phase = *entry;
    const std::string name = phase.value("phase", "");
    out += paragraph(fmt::format("{}: {} sequences of {} tokens, {} a step, {} held out.", name,
                                 whole(number(phase, "sequences")), whole(number(phase, "context")),
                                 whole(number(phase, "batch")), whole(number(phase, "held_out"))));
    pictures += name == "block" ? block_tuning(phase) : model_tuning(phase, name);
    if (name == "block") continue;
    for (const core::Json& end : phase.at("ended"))
      out += paragraph(fmt::format("{}, {}: kept step {}, held-out loss {} of {} before{}.", name, end.value("end", ""),
                                   whole(number(end, "best_step")), number_text(number(end, "best_loss"), 5),
                                   number_text(number(end, "first_loss"), 5),
                                   number(end, "fallbacks") > 0 ? fmt::format("; went back to its best state {} times",
                                                                              whole(number(end, "fallbacks")))
                                                                : ""));
  }
  return out + "<div class=\"pair\">\n" + pictures + "</div>\n";
}

}  // namespace voronoi::validation
