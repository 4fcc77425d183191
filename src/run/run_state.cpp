#include "run/run_state.h"

#include <fmt/format.h>

#include <algorithm>

#include "core/error.h"
#include "store/journal.h"

namespace voronoi::run {

namespace {

/// Newest and earlier generations of one kind of thing.
template <class T>
struct Generations {
  std::map<std::string, T>& newest;
  std::map<std::string, std::vector<T>>& earlier;

  /// `first`: number of the generation that has no parent.
  void add(const T& record, std::int64_t first, const std::string& file) {
    if (record.generation == first) {
      earlier.erase(record.name);
    } else {
      const auto parent = newest.find(record.name);
      if (parent == newest.end() || parent->second.sha256 != record.parent ||
          parent->second.generation + 1 != record.generation)
        throw core::FormatError(
            file, fmt::format("generation {} of {} was not made from the one that was there; the journal was edited: "
                              "restore it from a copy, or start a new run directory",
                              record.generation, core::quote_text(record.name)));
      earlier[record.name].push_back(parent->second);
    }
    newest.insert_or_assign(record.name, record);
  }

  /// The generation before takes the place of the newest.
  void lose(const std::string& name, std::int64_t generation) {
    const auto found = newest.find(name);
    if (found == newest.end()) return;
    const auto before = earlier.find(name);
    if (before != earlier.end()) {
      std::vector<T>& list = before->second;
      if (found->second.generation == generation) {
        found->second = list.back();
        list.pop_back();
      } else {
        std::erase_if(list, [&](const T& record) { return record.generation == generation; });
      }
      if (list.empty()) earlier.erase(before);
    } else if (found->second.generation == generation) {
      newest.erase(found);
    }
  }
};

constexpr std::int64_t kFirstLayer = 0, kFirstTensor = 1;

Generations<LayerRecord> layers_of(RunState& state) { return {state.layers, state.earlier_layers}; }
Generations<TensorRecord> tensors_of(RunState& state) { return {state.tensors, state.earlier_tensors}; }

/// One record into the state.
struct Applier {
  RunState& state;
  const std::string& file;

  void operator()(const StartRecord& start) const {
    state.start = start.number;
    state.last_start = start;
    state.finished = false;
  }
  void operator()(const SetRecord& set) const { state.sets.push_back(set.assignment); }
  void operator()(const CalibrationTextRecord& text) const { state.calibration_texts[text.number] = text; }
  void operator()(const ExpertCoverage& coverage) const { state.coverage[coverage.block] = coverage; }
  void operator()(const LayerRecord& layer) const {
    layers_of(state).add(layer, kFirstLayer, file);
    state.failed_layers.erase(layer.name);
    if (state.last_start) state.versions.insert(state.last_start->version);
  }
  void operator()(const LayerLost& lost) const {
    layers_of(state).lose(lost.name, lost.generation);
    tensors_of(state).lose(lost.name, lost.generation);
    state.stages_done.clear();
  }
  void operator()(const LayerFailed& failed) const { state.failed_layers[failed.name] = failed.error; }
  void operator()(const TensorRecord& tensor) const { tensors_of(state).add(tensor, kFirstTensor, file); }
  void operator()(const DamagedTensor& damage) const { state.damaged[damage.tensor] = damage; }
  void operator()(const Quarantined& given_up) const { state.quarantined[given_up.task] = given_up.error; }
  void operator()(const TaskDone& done) const { state.quarantined.erase(done.task); }
  void operator()(const TaskFailed&) const {}
  void operator()(const Allocated& allocated) const { state.allocated = allocated; }
  void operator()(const LeftUnquantized& left) const { state.unquantized[left.name] = left.weights; }
  void operator()(const RankLeftOut&) const {}
  void operator()(const TaskOverdue&) const {}
  void operator()(const StageTime& spent) const { state.stage_seconds[spent.stage] += spent.seconds; }
  void operator()(const StageWork& did) const {
    for (const auto& [name, amount] : did.counts) state.work[did.stage][name] += amount;
  }
  void operator()(const StageDone& done) const { state.stages_done.insert(done.stage); }
  void operator()(const SchedulingCost& cost) const {
    state.scheduling.n_tasks += cost.tasks;
    state.scheduling.task_seconds += cost.task_seconds;
    state.scheduling.waiting_seconds += cost.waiting_seconds;
    state.scheduling.coordinator_seconds += cost.coordinator_seconds;
  }
  void operator()(const TuningBegun& begun) const { state.tuning[begun.phase].begun = begun; }
  void operator()(const TuningPoint& point) const {
    // A start that was killed tells again what it does again.
    std::vector<TuningPoint>& points = state.tuning[point.phase].points;
    std::erase_if(points, [&](const TuningPoint& p) { return p.block == point.block && p.step >= point.step; });
    points.push_back(point);
  }
  void operator()(const TuningEnded& ended) const { state.tuning[ended.phase].ended[ended.block] = ended; }
  void operator()(const PeakMemory& memory) const {
    state.peak_memory_bytes = std::max(state.peak_memory_bytes, memory.peak_bytes);
  }
  void operator()(const Stopped&) const {}
  void operator()(const Finished&) const { state.finished = true; }
};

}  // namespace

void apply(RunState& state, const Record& record, const std::string& file) { std::visit(Applier{state, file}, record); }

RunState replay(const std::vector<core::Json>& records, const std::string& file) {
  RunState state;
  for (std::size_t i = 0; i < records.size(); ++i) apply(state, record_from_json(records[i], file, i + 1), file);
  return state;
}

RunState read_state(const store::RunPaths& paths) {
  return replay(store::Journal::read(paths.journal()), paths.journal().string());
}

NextGeneration next_layer_generation(const RunState& state, const std::string& linear) {
  const auto layer = state.layers.find(linear);
  if (layer == state.layers.end()) return {kFirstLayer, ""};
  return {layer->second.generation + 1, layer->second.sha256};
}

NextGeneration next_tensor_generation(const RunState& state, const std::string& tensor) {
  const auto found = state.tensors.find(tensor);
  if (found == state.tensors.end()) return {kFirstTensor, ""};
  return {found->second.generation + 1, found->second.sha256};
}

Published published(const RunState& state) {
  Published newest;
  for (const auto& [name, layer] : state.layers) newest.linears[name] = layer.generation;
  for (const auto& [name, tensor] : state.tensors) newest.tensors[name] = tensor.generation;
  return newest;
}

std::map<std::string, std::string> published_sums(const RunState& state) {
  std::map<std::string, std::string> sums;
  for (const auto& [name, layer] : state.layers) sums[name] = layer.sha256;
  for (const auto& [name, tensor] : state.tensors) sums[name] = tensor.sha256;
  return sums;
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
  if (!state.layers.empty())
    for (const auto& [name, count] : state.unquantized) {
      bits += 16 * static_cast<double>(count);
      weights += static_cast<double>(count);
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
