// What a run's journal says: replayed at every start, read by status, report and verify.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "core/json.h"
#include "run/records.h"
#include "sched/scheduler.h"
#include "store/run_directory.h"

namespace voronoi::run {

/// A phase of tuning as far as it has come.
struct TuningState {
  TuningBegun begun;
  std::vector<TuningPoint> points;            ///< in order of block and step, each once
  std::map<std::int64_t, TuningEnded> ended;  ///< by block; -1: the whole model
};

struct RunState {
  std::int64_t start = 0;  ///< number of the last one; 0 before the first
  std::optional<StartRecord> last_start;
  std::map<std::int64_t, CalibrationTextRecord> calibration_texts;  ///< by number
  std::map<std::int64_t, ExpertCoverage> coverage;                  ///< by block
  std::map<std::string, LayerRecord> layers;                       ///< finished, by name, the newest generation of each
  std::map<std::string, std::vector<LayerRecord>> earlier_layers;  ///< generations before that, the oldest first
  std::map<std::string, TensorRecord> tensors;  ///< by name, the newest generation of each that is not the model's
  std::map<std::string, std::vector<TensorRecord>> earlier_tensors;  ///< as of layers
  std::map<std::string, std::string> quarantined;    ///< task given up -> error; empty again once its layers are done
  std::map<std::string, std::string> failed_layers;  ///< linears given up for what their numbers are -> error
  std::map<std::string, std::int64_t> unquantized;   ///< linears that rules leave as they are -> weights
  std::optional<Allocated> allocated;                ///< what --allocate chose, once it did
  std::map<std::string, DamagedTensor> damaged;      ///< by tensor
  std::vector<std::string> sets;                     ///< --set assignments so far, in order
  std::map<std::string, double> stage_seconds;       ///< wall time a stage, summed over starts
  std::map<std::string, std::map<std::string, double>> work;  ///< of all ranks by stage, as StageWork; summed likewise
  std::set<std::string> stages_done;          ///< that came to their end, and nothing was taken back since
  std::set<std::string> versions;             ///< of the program, that made layers which are there
  std::map<std::string, TuningState> tuning;  ///< by phase
  sched::PhaseCost scheduling;                ///< of the quantize stage, summed over starts
  std::int64_t peak_memory_bytes = 0;         ///< largest resident set of any rank so far
  bool finished = false;                      ///< the last start came to the end of its stages
};

/// Everything that was given up -> why: tasks, layers, and damaged tensors that are no layer of their own.
std::map<std::string, std::string> failures(const RunState& state);
/// The same for people, one line a cause: what it struck (the first few by name) and the cause.
std::vector<std::string> describe_failures(const RunState& state);

/// Takes a record into account. Throws FormatError, naming `file`, for a generation without its parent.
void apply(RunState& state, const Record& record, const std::string& file);
/// Of all lines of a journal, from the first on. Throws FormatError.
RunState replay(const std::vector<core::Json>& records, const std::string& file);
/// Of the run's journal as it stands.
RunState read_state(const store::RunPaths& paths);

/// What the next generation of a layer or tensor starts from.
struct NextGeneration {
  std::int64_t generation = 0;
  std::string parent;  ///< digest of the newest one; empty: nothing, or the model's own
};
NextGeneration next_layer_generation(const RunState& state, const std::string& linear);
NextGeneration next_tensor_generation(const RunState& state, const std::string& tensor);

/// Newest generation by name, for readers.
struct Published {
  std::map<std::string, std::int64_t> linears, tensors;
};
Published published(const RunState& state);

/// Digests of the files that readers take, by name: layers and tensors.
std::map<std::string, std::string> published_sums(const RunState& state);

/// Bits of all layers together over their weights, 16 a weight of the linears that rules leave unquantized; 0 without
/// layers.
double true_bits(const RunState& state);
/// Of the layers alone.
double nominal_bits(const RunState& state);

}  // namespace voronoi::run
