#include "run/run_state.h"

#include <fmt/format.h>

#include <algorithm>

#include "core/error.h"

namespace voronoi::run {

core::Json layer_to_json(const LayerRecord& layer) {
  return {{"type", "layer"},
          {"name", layer.name},
          {"sha256", layer.sha256},
          {"weights", layer.weights},
          {"stored_bits", layer.stored_bits},
          {"nominal_bits", layer.nominal_bits},
          {"relative_error", layer.relative_error},
          {"seconds", layer.seconds},
          {"calibration_tokens", layer.calibration_tokens},
          {"left_out_tokens", layer.left_out_tokens},
          {"pooled_tokens", layer.pooled_tokens},
          {"rank", layer.rank},
          {"attempt", layer.attempt},
          {"statistics", layer.statistics}};
}

LayerRecord layer_from_json(const core::Json& json) {
  LayerRecord layer;
  layer.name = json.at("name").get<std::string>();
  layer.sha256 = json.at("sha256").get<std::string>();
  layer.weights = core::whole_number(json.at("weights"));
  layer.stored_bits = core::whole_number(json.at("stored_bits"));
  layer.nominal_bits = json.at("nominal_bits").get<double>();
  layer.relative_error = json.at("relative_error").get<double>();
  layer.seconds = json.at("seconds").get<double>();
  // Journals of earlier versions do not have them.
  layer.calibration_tokens = core::whole_number_or(json, "calibration_tokens", 0);
  layer.left_out_tokens = core::whole_number_or(json, "left_out_tokens", 0);
  layer.pooled_tokens = core::whole_number_or(json, "pooled_tokens", 0);
  layer.rank = static_cast<int>(core::whole_number(json.at("rank")));
  layer.attempt = core::whole_number(json.at("attempt"));
  layer.statistics = json.at("statistics");
  return layer;
}

void apply(RunState& state, const core::Json& record, const std::string& file) {
  try {
    const auto type = record.at("type").get<std::string>();
    if (type == "attempt") {
      state.attempt = core::whole_number(record.at("number"));
      state.last_attempt = record;
      state.finished = false;
    } else if (type == "set") {
      state.sets.push_back(record.at("assignment").get<std::string>());
    } else if (type == "layer") {
      LayerRecord layer = layer_from_json(record);
      state.failed_layers.erase(layer.name);
      state.layers[layer.name] = std::move(layer);
    } else if (type == "layer_lost") {
      state.layers.erase(record.at("name").get<std::string>());
    } else if (type == "layer_failed") {
      state.failed_layers[record.at("name").get<std::string>()] = record.at("error").get<std::string>();
    } else if (type == "damaged_tensor") {
      state.damaged[record.at("tensor").get<std::string>()] = {core::whole_number(record.at("values")),
                                                               record.at("error").get<std::string>()};
    } else if (type == "quarantined") {
      state.quarantined[record.at("task").get<std::string>()] = record.at("error").get<std::string>();
    } else if (type == "task_done") {
      state.quarantined.erase(record.at("task").get<std::string>());
    } else if (type == "stage") {
      state.stage_seconds[record.at("stage").get<std::string>()] += record.at("seconds").get<double>();
    } else if (type == "scheduling") {
      state.scheduling.n_tasks += core::whole_number(record.at("tasks"));
      state.scheduling.task_seconds += record.at("task_seconds").get<double>();
      state.scheduling.waiting_seconds += record.at("waiting_seconds").get<double>();
      state.scheduling.coordinator_seconds += record.at("coordinator_cpu_seconds").get<double>();
    } else if (type == "memory") {
      state.peak_memory_bytes = std::max(state.peak_memory_bytes, core::whole_number(record.at("peak_bytes")));
    } else if (type == "finished") {
      state.finished = true;
    }
  } catch (const core::Json::exception& error) {
    throw core::FormatError(file, std::string("a record lacks what its type needs: ") + error.what() +
                                      "; the journal is of another version or was edited: start a new run directory");
  }
}

RunState replay(const std::vector<core::Json>& records, const std::string& file) {
  RunState state;
  for (const core::Json& record : records) apply(state, record, file);
  return state;
}

std::map<std::string, std::string> failures(const RunState& state) {
  std::map<std::string, std::string> all = state.quarantined;
  all.insert(state.failed_layers.begin(), state.failed_layers.end());
  for (const auto& [tensor, damage] : state.damaged) {
    const std::string module = tensor.substr(0, tensor.rfind(".weight"));
    if (!state.layers.contains(module) && !state.failed_layers.contains(module)) all[tensor] = damage.error;
  }
  return all;
}

std::vector<std::string> describe_failures(const RunState& state) {
  constexpr std::size_t kShown = 8;
  std::map<std::string, std::vector<std::string>> by_cause;
  for (const auto& [name, error] : failures(state)) by_cause[error].push_back(name);
  std::vector<std::string> lines;
  for (const auto& [error, names] : by_cause) {
    std::string struck;
    for (std::size_t i = 0; i < std::min(names.size(), kShown); ++i) struck += (i > 0 ? ", " : "") + names[i];
    if (names.size() > kShown) struck += fmt::format(" and {} more", names.size() - kShown);
    lines.push_back(struck + ": " + error);
  }
  return lines;
}

double true_bits(const RunState& state) {
  double bits = 0, weights = 0;
  for (const auto& [name, layer] : state.layers) {
    bits += static_cast<double>(layer.stored_bits);
    weights += static_cast<double>(layer.weights);
  }
  return weights > 0 ? bits / weights : 0;
}

double nominal_bits(const RunState& state) {
  double bits = 0, weights = 0;
  for (const auto& [name, layer] : state.layers) {
    bits += layer.nominal_bits * static_cast<double>(layer.weights);
    weights += static_cast<double>(layer.weights);
  }
  return weights > 0 ? bits / weights : 0;
}

}  // namespace voronoi::run
