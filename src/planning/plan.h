// What a quantization run would store, hold, compute and take: `voronoi plan`. Nothing of the model is read but its
// configuration.
#pragma once

#include <algorithm>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "core/json.h"
#include "core/memory_peak.h"
#include "core/work_counts.h"
#include "model/config.h"
#include "planning/rates.h"
#include "quant/method.h"
#include "run/settings.h"
#include "sched/simulation.h"

namespace voronoi::planning {

struct PlanRequest {
  run::Settings options;                ///< --bits resolved
  std::vector<run::GivenOption> given;  ///< those of quantize as the user gave them, a switch without value
  model::ModelConfig config;
  int n_ranks = 1, ranks_per_node = 1, threads = 1;
  bool cuda = false;
  backend::Device device() const { return cuda ? backend::Device::cuda : backend::Device::cpu; }
  std::int64_t gpu_memory = 0;       ///< bytes a GPU, 0: not told
  std::int64_t node_memory = 0;      ///< bytes a node, 0: not told
  std::int64_t file_bytes = 0;       ///< of the model's weights on disk that are read, 0: not there
  std::int64_t program_bytes = 0;    ///< resident memory of a rank that has done nothing
  std::int64_t tokenizer_bytes = 0;  ///< an allowance for vocabulary and merges
  std::int64_t text_bytes = 0;       ///< of the calibration texts that are there
  bool sentencepiece = false;        ///< which takes far more memory a byte of text than byte-level BPE
  Rates rates;
};

/// All linears of one role ("self_attn.q_proj"), shape and setting.
struct PlannedLinear {
  std::string role, site, example;
  std::int64_t out_features = 0, in_features = 0, count = 0;
  bool quantized = true;     ///< false: left as the model has them, 16 bits a weight
  std::string setting;       ///< as Method::setting tells it
  quant::StoredBits stored;  ///< of one
  std::int64_t weights() const { return out_features * in_features; }
};

struct PlannedStage {
  std::string name;
  double flops = 0, bytes = 0;  ///< over all ranks; bytes read from or written to disk
  double seconds = 0;           ///< wall
};

/// A window of blocks under the coordinator, simulated.
struct PlannedWindows {
  std::int64_t blocks = 0, count = 0;  ///< blocks a window, windows
  std::int64_t tasks = 0, widest = 1;  ///< of a window
  double seconds = 0;                  ///< all windows
  sched::SimulationSummary window;     ///< a whole one
};

struct Plan {
  std::vector<PlannedLinear> linears;
  std::int64_t quantized_weights = 0, quantized_bits = 0, rest_bytes = 0, original_bytes = 0, hessian_bytes = 0;
  std::int64_t kept_weights = 0;  ///< of linears that are not quantized; in rest_bytes
  double nominal_bits = 0;
  std::vector<PlannedStage> stages;
  /// What all ranks do together, by stage of the run ("calibrate", "quantize"): what the run will count and journal.
  /// What coordinator and workers send each other is not told.
  std::map<std::string, core::WorkCounts> work;
  PlannedWindows windows;
  std::int64_t suggested_window = 0;  ///< blocks a window that would be clearly quicker; 0: none
  core::MemoryPeak tokenizing, calibrating, gathering, quantizing,
      tuning;                     ///< a rank, on the host; gathering: one rank at a time; tuning: where it is asked for
  core::MemoryPeak collecting;    ///< of calibrating what others do while one rank gathers
  core::MemoryPeak device;        ///< a rank's GPU; empty on a CPU
  std::int64_t mapped_bytes = 0;  ///< of the model's file, which the system keeps while memory is free
  double total_seconds = 0;
  std::vector<std::string> refusals;  ///< why the job cannot fit

  /// Of all linears, 16 for those that are not quantized.
  double true_bits() const {
    const std::int64_t weights = quantized_weights + kept_weights;
    return weights > 0 ? static_cast<double>(quantized_bits + 16 * kept_weights) / static_cast<double>(weights) : 0;
  }
  /// Of a node with so many ranks.
  core::MemoryPeak node(int ranks) const;
};

Plan make_plan(const PlanRequest& request);

/// Tables with units, for people.
std::string plan_text(const PlanRequest& request, const Plan& plan);
core::Json plan_json(const PlanRequest& request, const Plan& plan);
/// Options of sbatch that fit the plan, time and memory with a margin: half of the time and ten minutes, a fifth of the
/// memory and a gibibyte.
std::vector<std::string> sbatch_options(const PlanRequest& request, const Plan& plan);
/// What slurm/quantize.sbatch takes: model, run, and all else that was given. Words, not quoted.
std::vector<std::string> job_words(const PlanRequest& request);
/// Both as one line for a shell.
std::string sbatch_line(const PlanRequest& request, const Plan& plan);

}  // namespace voronoi::planning
