#include "jobs/status_text.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <optional>
#include <system_error>

#include "core/error.h"
#include "core/log.h"
#include "core/printable.h"
#include "core/whereabouts.h"
#include "run/heartbeat.h"
#include "run/resume.h"
#include "run/run_state.h"

namespace voronoi::jobs {
namespace {

namespace fs = std::filesystem;

double number_at(const core::Json& status, const char* map, const std::string& stage) {
  const auto found = status.find(map);
  return found == status.end() ? 0 : found->value(stage, 0.0);
}

double sum_of(const core::Json& status, const char* map) {
  double sum = 0;
  if (const auto found = status.find(map); found != status.end())
    for (const auto& [stage, seconds] : found->items()) sum += seconds.get<double>();
  return sum;
}

/// Of the work of the start that runs, or of all layers where none does; nothing where it is not known.
std::optional<double> share_done(const core::Json& status) {
  const auto state = status.at("state").get<std::string>();
  if (state == "finished") return 1;
  const double spent = sum_of(status, "stage_spent_seconds"), left = sum_of(status, "stage_eta_seconds");
  if (state == "running" && spent + left > 0) return spent / (spent + left);
  const std::int64_t total = core::whole_number_or(status, "layers_total", 0);
  if (total == 0) return std::nullopt;
  return static_cast<double>(core::whole_number(status.at("layers_done"))) / static_cast<double>(total);
}

std::string percent(const std::optional<double>& share) {
  return share ? fmt::format("{:.0f} %", std::floor(100 * *share)) : "-";
}

/// Stages of the start that runs: those with work behind or before them.
std::vector<std::string> live_stages(const core::Json& status) {
  std::vector<std::string> stages;
  for (const char* map : {"stage_spent_seconds", "stage_eta_seconds"})
    if (const auto found = status.find(map); found != status.end())
      for (const auto& [stage, seconds] : found->items())
        if (seconds.get<double>() > 0 && std::find(stages.begin(), stages.end(), stage) == stages.end())
          stages.push_back(stage);
  return stages;
}

/// Whether it is at work for longer than was predicted: nobody knows how much is left.
bool is_late(const core::Json& status, const std::string& stage) {
  return number_at(status, "stage_eta_seconds", stage) <= 0 && status.value("stage", "") == stage;
}

std::string left_of(const core::Json& status, const std::string& stage) {
  if (is_late(status, stage)) return "longer than predicted";
  const double left = number_at(status, "stage_eta_seconds", stage);
  return left > 0 ? "about " + core::format_duration(left) + " left" : "done";
}

/// "  quantize  [########----------------]  33 %  about 4 min left"
std::string stage_bars(const core::Json& status) {
  constexpr int kWidth = 28;
  constexpr double kLate = 0.99;
  std::string text;
  for (const std::string& stage : live_stages(status)) {
    const double spent = number_at(status, "stage_spent_seconds", stage);
    const double left = number_at(status, "stage_eta_seconds", stage);
    const double share = is_late(status, stage) ? kLate : spent / (spent + left);
    const auto full = static_cast<std::size_t>(std::floor(share * kWidth));
    text += fmt::format("  {:<10}[{}{}] {:>5}  {}\n", stage, std::string(full, '#'), std::string(kWidth - full, '-'),
                        percent(share), left_of(status, stage));
  }
  return text;
}

std::string layers_text(const core::Json& status) {
  return fmt::format(
      "{}{}", core::whole_number(status.at("layers_done")),
      status.contains("layers_total") ? fmt::format(" of {}", core::whole_number(status.at("layers_total"))) : "");
}

}  // namespace

core::Json collect_status(const store::RunPaths& paths) {
  const core::Json identity = store::read_identity(paths);
  const run::RunState state = run::read_state(paths);
  core::Json status{{"run", paths.root.string()},
                    {"method", identity.at("quantization").at("method")},
                    {"start", state.start},
                    {"ranks", state.last_start ? state.last_start->ranks : 0},
                    {"layers_done", state.layers.size()},
                    {"bits_true", true_bits(state)},
                    {"stage_seconds", state.stage_seconds},
                    {"work", state.work},
                    {"scheduling",
                     {{"tasks", state.scheduling.n_tasks},
                      {"task_seconds", state.scheduling.task_seconds},
                      {"waiting_seconds", state.scheduling.waiting_seconds},
                      {"coordinator_cpu_seconds", state.scheduling.coordinator_seconds}}},
                    {"failures", run::failures(state)},
                    {"resume", run::describe_resume(paths, state)},
                    {"state", state.finished ? "finished" : "not running"}};
  for (const auto& [number, text] : state.calibration_texts)
    status["calibration_texts"].push_back({{"path", text.path},
                                           {"weight", text.weight},
                                           {"windows", text.windows},
                                           {"tokens", text.tokens},
                                           {"duplicates", text.duplicates}});
  const std::optional<run::Heartbeat> live = run::read_heartbeat(paths);
  if (!live) return status;
  status["layers_total"] = live->layers;
  // A comparison has no layers of its own; its heartbeats count those of its runs.
  if (state.last_start && state.last_start->command == run::kCompare) status["layers_done"] = live->layers_done;
  if (state.finished || live->start != state.start) return status;
  status["heartbeat_age_seconds"] = core::unix_time() - live->updated;
  if (!live->ended.empty()) status["state"] = live->ended;
  if (!run::is_alive(*live, state)) return status;
  status["state"] = "running";
  status["eta_seconds"] = live->eta_seconds();
  status["stage_eta_seconds"] = live->stages;
  status["stage_spent_seconds"] = live->spent;
  status["stage"] = live->stage;
  status["doing"] = live->doing;
  status["tokens_per_second"] = live->tokens_per_second;
  status["workers"] = live->workers;
  return status;
}

std::string describe_status(const core::Json& status) {
  std::string text = fmt::format("{}: {}, method {}, start {} on {} rank(s)\n", status.at("run").get<std::string>(),
                                 status.at("state").get<std::string>(), status.at("method").get<std::string>(),
                                 core::whole_number(status.at("start")), core::whole_number(status.at("ranks")));
  text += fmt::format("  layers  {} done, {:.3f} true bits a weight\n", layers_text(status),
                      status.at("bits_true").get<double>());
  if (const auto texts = status.find("calibration_texts"); texts != status.end())
    for (const core::Json& given : *texts) {
      text += fmt::format("  text    {} windows, {} tokens of {}", core::whole_number(given.at("windows")),
                          core::whole_number(given.at("tokens")), given.at("path").get<std::string>());
      if (const std::int64_t left = core::whole_number(given.at("duplicates")); left > 0)
        text += fmt::format("; {} left out, with the tokens of one before", left);
      text += "\n";
    }
  for (const auto& [stage, seconds] : status.at("stage_seconds").items())
    text += fmt::format("  {:<10}{}\n", stage, core::format_duration(seconds.get<double>()));
  const core::Json& scheduling = status.at("scheduling");
  if (const double tasks = scheduling.at("task_seconds").get<double>(); tasks > 0)
    text += fmt::format(
        "  tasks   {} in {}; of that time ranks waited {:.2g} % between tasks, the coordinator took {:.2g} %\n",
        scheduling.at("tasks").get<std::int64_t>(), core::format_duration(tasks),
        100 * scheduling.at("waiting_seconds").get<double>() / tasks,
        100 * scheduling.at("coordinator_cpu_seconds").get<double>() / tasks);
  if (status.contains("stage")) {
    text += fmt::format("  now     {}", status.at("stage").get<std::string>());
    if (const auto doing = status.at("doing").get<std::string>(); !doing.empty()) text += ", " + doing;
    if (const double rate = status.at("tokens_per_second").get<double>(); rate > 0)
      text += fmt::format(", {:.0f} tokens/s", rate);
    text += "\n";
  }
  if (status.contains("eta_seconds") && status.at("eta_seconds").get<double>() > 0)
    text += fmt::format("  left    about {}\n", core::format_duration(status.at("eta_seconds").get<double>()));
  text += stage_bars(status);
  if (status.contains("workers"))
    for (const core::Json& worker : status.at("workers")) {
      const auto task = worker.at("task").get<std::string>();
      text += fmt::format("  rank {:<4}{}\n", core::whole_number(worker.at("rank")), task.empty() ? "idle" : task);
    }
  for (const auto& [task, error] : status.at("failures").items())
    text += fmt::format("  FAILED  {}: {}\n", task, error.get<std::string>());
  if (status.at("state") != "running" && status.at("state") != "finished")
    text += fmt::format("  resume  {}\n", status.at("resume").get<std::string>());
  return text;
}

std::string progress_line(const core::Json& status) {
  std::string text = fmt::format("{}: {}, {} layers done", percent(share_done(status)), status.value("stage", ""),
                                 layers_text(status));
  if (const std::string doing = status.value("doing", ""); !doing.empty()) text += ", " + doing;
  for (const std::string& stage : live_stages(status)) text += fmt::format("; {} {}", stage, left_of(status, stage));
  return text + "\n";
}

std::vector<fs::path> runs_below(const fs::path& directory) {
  constexpr int kDepth = 3;
  if (!fs::is_directory(directory))
    throw core::ConfigError(directory.string() + ": is no directory; status --all wants one that runs lie in");
  std::vector<fs::path> runs;
  std::error_code error;
  fs::recursive_directory_iterator entry(directory, fs::directory_options::skip_permission_denied, error);
  for (; !error && entry != fs::recursive_directory_iterator(); entry.increment(error)) {
    std::error_code unreadable;
    if (entry->is_symlink(unreadable) || !entry->is_directory(unreadable)) continue;
    const bool is_run = fs::exists(store::RunPaths{entry->path()}.identity(), unreadable);
    if (is_run) runs.push_back(entry->path());
    if (is_run || entry.depth() + 1 >= kDepth) entry.disable_recursion_pending();
  }
  if (runs.empty())
    throw core::ConfigError(directory.string() + ": no run directory lies in it; of a single run: voronoi status RUN");
  std::sort(runs.begin(), runs.end());
  return runs;
}

core::Json status_among_others(const fs::path& run) {
  try {
    return collect_status(store::RunPaths{run});
  } catch (const core::Error& error) {
    return {{"run", run.string()}, {"state", "unreadable"}, {"error", error.what()}};
  }
}

std::string status_table(const std::vector<core::Json>& runs, const fs::path& directory) {
  std::vector<std::array<std::string, 8>> rows{{"run", "state", "stage", "done", "left", "layers", "bits", "problems"}};
  for (const core::Json& status : runs) {
    const std::string name =
        core::printable(fs::path(status.at("run").get<std::string>()).lexically_relative(directory).string());
    const auto state = status.at("state").get<std::string>();
    if (status.contains("error")) {
      rows.push_back({name, state, "-", "-", "-", "-", "-", core::printable(status.at("error").get<std::string>())});
      continue;
    }
    const double left = status.value("eta_seconds", 0.0);
    const std::size_t failures = status.at("failures").size();
    rows.push_back({name, state, status.value("stage", "-"), percent(share_done(status)),
                    left > 0 ? core::format_duration(left) : "-", layers_text(status),
                    fmt::format("{:.3f}", status.at("bits_true").get<double>()),
                    failures == 0 ? "-" : fmt::format("{} failed", failures)});
  }
  std::array<std::size_t, 8> widths{};
  for (const auto& row : rows)
    for (std::size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], row[i].size());
  std::string text;
  for (const auto& row : rows) {
    for (std::size_t i = 0; i + 1 < row.size(); ++i) text += fmt::format("{:<{}}  ", row[i], widths[i]);
    text += row.back() + "\n";
  }
  return text;
}

}  // namespace voronoi::jobs
