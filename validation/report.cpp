#include "validation/report.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

#include "core/log.h"
#include "validation/result.h"

namespace voronoi::validation {
namespace {

std::string number_or_dash(const core::Json& json, const char* key, const char* format) {
  const auto found = json.find(key);
  if (found == json.end() || found->is_null()) return "-";
  return fmt::format(fmt::runtime(format), found->get<double>());
}

/// A metric's figure with as many digits as it bears.
std::string figure(const core::Json& row, const char* key) {
  return number_or_dash(row, key, row.at("metric") == kPerplexity ? "{:.4f}" : "{:.5f}");
}

void append_rows(std::string& text, const Report& report) {
  if (report.rows.empty()) {
    text += "No evaluation yet: `voronoi eval --model RUN --text FILE` adds the perplexity here.\n\n";
    return;
  }
  text +=
      "| task | metric | method | true bits | nominal bits | value | standard error | unquantized, same run | "
      "quantization time |\n|---|---|---|---:|---:|---:|---:|---:|---:|\n";
  for (const ReportRow& row : report.rows) {
    const core::Json& e = row.evaluation;
    text += fmt::format("| {} | {} | {} | {} | {} | {} | {} | {} | {} |\n", e.at("task").get<std::string>(),
                        e.at("metric").get<std::string>(), e.at("method").get<std::string>(),
                        number_or_dash(e, "bits_true", "{:.3f}"), number_or_dash(e, "bits_nominal", "{:.2f}"),
                        figure(e, "value"), number_or_dash(e, "stderr", "{:.2g}"), figure(e, "reference"),
                        row.quantize_seconds ? core::format_duration(*row.quantize_seconds) : "-");
  }
  text += "\nProtocols\n\n";
  std::vector<std::string> seen;
  for (const ReportRow& row : report.rows) {
    const core::Json &e = row.evaluation, &protocol = e.at("protocol");
    std::string line = "- " + e.at("task").get<std::string>();
    for (const char* key : {"text_sha256", "data_sha256"})
      if (const auto sha256 = protocol.find(key); sha256 != protocol.end())
        line += fmt::format(" (SHA-256 {}...)", sha256->get<std::string>().substr(0, 16));
    line += fmt::format(": {}, n = {}\n", protocol_text(protocol), core::whole_number(e.at("n")));
    if (std::find(seen.begin(), seen.end(), line) != seen.end()) continue;
    text += line;
    seen.push_back(std::move(line));
  }
  text +=
      "- true bits count everything stored for the quantized linears: packed indices, codebooks, scales, biases, "
      "permutation, outliers.\n"
      "- the standard error of a text's figure is that of the mean over its windows.\n\n";
}

void append_quoted(std::string& text, const QuotedTable& quoted) {
  if (quoted.rows.empty()) return;
  const auto cells = quoted_cells(quoted);
  text += fmt::format("{}\n\n{}\n\n", quoted_heading(), quoted_note(quoted));
  for (const auto& row : cells) {
    text += fmt::format("| {} |\n", fmt::join(row, " | "));
    if (&row != &cells.front()) continue;
    for (std::size_t i = 0; i < row.size(); ++i) text += "|---";
    text += "|\n";
  }
  text += "\n";
}

/// What calibration was made of: texts, and tokens that experts got.
void append_calibration(std::string& text, const RunSection& run) {
  if (!run.texts.empty())
    text +=
        "\nCalibration texts\n\n| text | weight | windows | tokens | tokens of the text | duplicates left out "
        "|\n|---|---:|---:|---:|---:|---:|\n";
  for (const TextRow& row : run.texts)
    text += fmt::format("| {} | {:g} | {} | {} | {} | {} |\n", row.path, row.weight, row.windows, row.tokens,
                        row.text_tokens, row.duplicates);
  if (!run.coverage.empty())
    text +=
        "\nTokens that experts got\n\n| block | experts | with Hessians of their own | least | median "
        "|\n|---:|---:|---:|---:|---:|\n";
  for (const CoverageRow& row : run.coverage)
    text += fmt::format("| {} | {} | {} | {} | {} |\n", row.block, row.experts, row.covered, row.least, row.median);
}

void append_starved(std::string& text, const RunSection& run) {
  std::vector<const LayerRow*> starved;
  for (const LayerRow& layer : run.layers)
    if (layer.pooled_tokens > 0) starved.push_back(&layer);
  if (starved.empty()) return;
  text += fmt::format(
      "\nStarved experts: {} of {} layers saw too few calibration tokens and were quantized with the pooled Hessian of "
      "their layer's experts\n\n| layer | own tokens | pooled tokens | error |\n|---|---:|---:|---:|\n",
      starved.size(), run.layers.size());
  for (const LayerRow* layer : starved)
    text += fmt::format("| {} | {} | {} | {:.5f} |\n", layer->name, layer->calibration_tokens, layer->pooled_tokens,
                        layer->relative_error);
}

/// What numbers forced on the run: each a fallback that the layers' figures rest on.
void append_fallbacks(std::string& text, const RunSection& run) {
  if (!run.damaged.empty()) text += "\nDamaged tensors: calibration took 0 for the values that cannot be used\n\n";
  for (const DamagedTensor& tensor : run.damaged)
    text += fmt::format("- {} value(s): {}\n", tensor.n_values, tensor.error);
  std::vector<const LayerRow*> struck;
  for (const LayerRow& layer : run.layers)
    if (layer.left_out_tokens > 0 || layer.damping_steps > 0 || layer.dead_inputs > 0) struck.push_back(&layer);
  if (struck.empty()) return;
  text += fmt::format(
      "\nNumeric fallbacks: {} of {} layers had calibration rows left out (inputs not finite or too large), a Hessian "
      "that needed more damping than asked for, or inputs that were always zero\n\n"
      "| layer | tokens left out | of | damping | steps | dead inputs | error |\n|---|---:|---:|---:|---:|---:|---:|\n",
      struck.size(), run.layers.size());
  for (const LayerRow* layer : struck)
    text += fmt::format("| {} | {} | {} | {:g} | {} | {} | {:.5f} |\n", layer->name, layer->left_out_tokens,
                        layer->left_out_tokens + layer->calibration_tokens, layer->damping, layer->damping_steps,
                        layer->dead_inputs, layer->relative_error);
}

/// A phase of tuning: what it went over, and the held-out loss on its way.
void append_tuning(std::string& text, const core::Json& phase) {
  text += fmt::format("\nTuning, {}: {} sequences of {} tokens, {} a step, {} held out\n\n", phase.value("phase", ""),
                      phase.value("sequences", 0), phase.value("context", 0), phase.value("batch", 0),
                      phase.value("held_out", 0));
  const core::Json& ended = phase.at("ended");
  if (phase.value("phase", "") == "block") {
    text += "| block | held-out loss before | after | best step | end |\n|---:|---:|---:|---:|---|\n";
    for (const core::Json& end : ended)
      text +=
          fmt::format("| {} | {:.5g} | {:.5g} | {} | {} |\n", end.value("block", 0) + 1, end.value("first_loss", 0.0),
                      end.value("best_loss", 0.0), end.value("best_step", 0), end.value("end", ""));
    return;
  }
  text += "| step | training loss since the row before | held-out loss |\n|---:|---:|---:|\n";
  for (const core::Json& point : phase.at("points"))
    text += fmt::format(
        "| {} | {} | {} |\n", point.value("step", 0),
        point.value("step", 0) > 0 ? fmt::format("{:.5g}", point.value("training_loss", 0.0)) : "",
        point.value("ran_away", false) ? "ran away" : fmt::format("{:.5g}", point.value("held_out_loss", 0.0)));
  for (const core::Json& end : ended)
    text += fmt::format("\n{}: kept step {}, held-out loss {:.5g} of {:.5g} before{}\n", end.value("end", ""),
                        end.value("best_step", 0), end.value("best_loss", 0.0), end.value("first_loss", 0.0),
                        end.value("fallbacks", 0) > 0
                            ? fmt::format("; went back to its best state {} time(s)", end.value("fallbacks", 0))
                            : "");
}

void append_run(std::string& text, const RunSection& run) {
  text += fmt::format("## {}\n\n", run.label);
  text += fmt::format("- directory `{}`, {} start(s), last on {} rank(s), peak memory of a rank {}\n", run.directory,
                      run.starts, run.ranks, core::format_bytes(static_cast<double>(run.peak_memory_bytes)));
  text += fmt::format("- {} layers, {:.4f} true bits a weight, nominal {:.3f}, mean relative Hessian error {:.5f}\n",
                      run.layers.size(), run.true_bits, run.nominal_bits, run.mean_relative_error);
  if (!run.unquantized.empty())
    text += fmt::format("- {} linears are left in 16 bits by rules, and counted so in the true bits; {} first\n",
                        run.unquantized.size(), run.unquantized.front().name);
  for (const auto& [stage, seconds] : run.stage_seconds)
    text += fmt::format("- {}: {}\n", stage, core::format_duration(seconds));
  if (run.task_seconds > 0)
    text += fmt::format(
        "- {} tasks in {} of all ranks; of that time ranks waited {:.2g} % between tasks, the coordinator took {:.2g} "
        "%\n",
        run.n_tasks, core::format_duration(run.task_seconds), 100 * run.waiting_seconds / run.task_seconds,
        100 * run.coordinator_seconds / run.task_seconds);
  const auto calibration = run.identity.find("calibration");
  if (calibration != run.identity.end())
    text += fmt::format("- calibration: {} sequences x {} tokens, {}\n", calibration->value("sequences", 0),
                        calibration->value("context", 0), calibration->value("mode", ""));
  const auto quantization = run.identity.find("quantization");
  if (quantization != run.identity.end()) text += fmt::format("- settings: `{}`\n", quantization->dump());
  for (const auto& [task, error] : run.failures) text += fmt::format("- **not quantized**: {}: {}\n", task, error);
  append_calibration(text, run);
  for (const core::Json& phase : run.tuning) append_tuning(text, phase);
  std::vector<LayerRow> worst = run.layers;
  std::stable_sort(worst.begin(), worst.end(),
                   [](const LayerRow& a, const LayerRow& b) { return a.relative_error > b.relative_error; });
  worst.resize(std::min<std::size_t>(worst.size(), 10));
  text +=
      "\nLayers with the largest relative Hessian error\n\n| layer | error | true bits | seconds "
      "|\n|---|---:|---:|---:|\n";
  for (const LayerRow& layer : worst)
    text += fmt::format("| {} | {:.5f} | {:.3f} | {:.2f} |\n", layer.name, layer.relative_error, layer.true_bits,
                        layer.seconds);
  append_starved(text, run);
  append_fallbacks(text, run);
  text += "\n";
}

core::Json history_json(const RunHistory& history) {
  core::Json starts = core::Json::array(), mishaps = core::Json::array();
  for (const StartHistory& start : history.starts)
    starts.push_back({{"number", start.record.number},
                      {"time", start.record.time},
                      {"seconds", start.work.end - start.work.begin},
                      {"ended", start.ended},
                      {"ranks", start.record.ranks},
                      {"host", start.record.host},
                      {"version", start.record.version},
                      {"machine", start.record.machine}});
  for (const Mishap& mishap : history.mishaps) mishaps.push_back({{"what", mishap.what}, {"error", mishap.error}});
  return {{"starts", starts},
          {"mishaps", mishaps},
          {"rank_seconds", history.rank_seconds},
          {"core_seconds", history.core_seconds},
          {"gpu_seconds", history.gpu_seconds}};
}

}  // namespace

core::Json report_json(const Report& report) {
  core::Json rows = core::Json::array(), runs = core::Json::array();
  for (const ReportRow& row : report.rows) {
    core::Json entry = row.evaluation;
    entry["quantize_seconds"] = row.quantize_seconds ? core::Json(*row.quantize_seconds) : core::Json(nullptr);
    rows.push_back(std::move(entry));
  }
  for (const RunSection& run : report.runs) {
    core::Json layers = core::Json::array();
    for (const LayerRow& layer : run.layers)
      layers.push_back({{"name", layer.name},
                        {"weights", layer.weights},
                        {"bits_true", layer.true_bits},
                        {"relative_error", layer.relative_error},
                        {"seconds", layer.seconds},
                        {"calibration_tokens", layer.calibration_tokens},
                        {"pooled_tokens", layer.pooled_tokens},
                        {"left_out_tokens", layer.left_out_tokens},
                        {"damping", layer.damping},
                        {"damping_steps", layer.damping_steps},
                        {"dead_inputs", layer.dead_inputs}});
    core::Json damaged = core::Json::array(), unquantized = core::Json::array(), texts = core::Json::array(),
               coverage = core::Json::array();
    for (const TextRow& row : run.texts)
      texts.push_back({{"path", row.path},
                       {"weight", row.weight},
                       {"windows", row.windows},
                       {"tokens", row.tokens},
                       {"text_tokens", row.text_tokens},
                       {"duplicates", row.duplicates}});
    for (const CoverageRow& row : run.coverage)
      coverage.push_back({{"block", row.block},
                          {"experts", row.experts},
                          {"covered", row.covered},
                          {"least", row.least},
                          {"median", row.median}});
    for (const UnquantizedLinear& linear : run.unquantized)
      unquantized.push_back({{"name", linear.name}, {"weights", linear.weights}});
    for (const DamagedTensor& tensor : run.damaged)
      damaged.push_back({{"name", tensor.name}, {"values_as_zero", tensor.n_values}, {"error", tensor.error}});
    runs.push_back({{"label", run.label},
                    {"directory", run.directory},
                    {"method", run.method},
                    {"identity", run.identity},
                    {"bits_true", run.true_bits},
                    {"bits_nominal", run.nominal_bits},
                    {"mean_relative_error", run.mean_relative_error},
                    {"stage_seconds", run.stage_seconds},
                    {"ranks", run.ranks},
                    {"starts", run.starts},
                    {"peak_memory_bytes", run.peak_memory_bytes},
                    {"scheduling",
                     {{"tasks", run.n_tasks},
                      {"task_seconds", run.task_seconds},
                      {"waiting_seconds", run.waiting_seconds},
                      {"coordinator_cpu_seconds", run.coordinator_seconds}}},
                    {"history", history_json(run.history)},
                    {"calibration_texts", texts},
                    {"expert_coverage", coverage},
                    {"tuning", run.tuning},
                    {"failures", run.failures},
                    {"damaged_tensors", damaged},
                    {"unquantized", unquantized},
                    {"layers", layers}});
  }
  core::Json json{{"rows", rows}, {"runs", runs}};
  if (!report.quoted.rows.empty()) json["quoted"] = quoted_cells(report.quoted);
  return json;
}

std::string report_markdown(const Report& report) {
  std::string text = "# Voronoi report\n\n";
  append_rows(text, report);
  append_quoted(text, report.quoted);
  for (const RunSection& run : report.runs) append_run(text, run);
  return text;
}

}  // namespace voronoi::validation
