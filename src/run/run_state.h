// What a run's journal says: replayed at every start, read by status, report and verify.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "core/json.h"
#include "sched/scheduler.h"
#include "store/run_directory.h"

namespace voronoi::run {

/// A quantized linear as the journal records it.
struct LayerRecord {
  std::string name, sha256;  ///< of the shard file
  std::int64_t weights = 0, stored_bits = 0;
  double nominal_bits = 0, relative_error = 0, seconds = 0;
  std::int64_t calibration_tokens = 0;  ///< rows that entered the layer in calibration
  std::int64_t left_out_tokens = 0;     ///< rows besides, with inputs that were too large or not finite
  std::int64_t pooled_tokens = 0;       ///< above 0: a starved expert, its Hessian is the mean over so many rows
  int rank = 0;
  std::int64_t attempt = 0;
  core::Json statistics;
};

/// A tensor of the model with values that cannot be used.
struct DamagedTensor {
  std::int64_t n_values = 0;  ///< that counted as 0 in calibration
  std::string error;          ///< file, tensor, first position and value
};

struct RunState {
  std::int64_t attempt = 0;                          ///< number of the last one; 0 before the first
  core::Json last_attempt;                           ///< its record: paths, ranks, host, time
  std::map<std::string, LayerRecord> layers;         ///< finished, by name
  std::map<std::string, std::string> quarantined;    ///< task given up -> error; empty again once its layers are done
  std::map<std::string, std::string> failed_layers;  ///< linears given up for what their numbers are -> error
  std::map<std::string, DamagedTensor> damaged;      ///< by tensor
  std::vector<std::string> sets;                     ///< --set assignments so far, in order
  std::map<std::string, double> stage_seconds;       ///< wall time a stage, summed over attempts
  sched::PhaseCost scheduling;                       ///< of the quantize stage, summed over attempts
  std::int64_t peak_memory_bytes = 0;                ///< largest resident set of any rank so far
  bool finished = false;                             ///< the last attempt came to the end of its stages
};

/// Everything that was given up -> why: tasks, layers, and damaged tensors that are no layer of their own.
std::map<std::string, std::string> failures(const RunState& state);
/// The same for people, one line a cause: what it struck (the first few by name) and the cause.
std::vector<std::string> describe_failures(const RunState& state);

/// Takes a record into account. `file`: the journal, for errors.
void apply(RunState& state, const core::Json& record, const std::string& file);
RunState replay(const std::vector<core::Json>& records, const std::string& file);

core::Json layer_to_json(const LayerRecord& layer);
LayerRecord layer_from_json(const core::Json& json);

/// Bits of all layers together over their weights; 0 without layers.
double true_bits(const RunState& state);
double nominal_bits(const RunState& state);

}  // namespace voronoi::run
