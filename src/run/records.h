// The records of a run's journal: one struct a type, the same list of fields for writing and for reading.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "core/json.h"

namespace voronoi::run {

/// Commands that make run directories: of one run, and of several ("compare").
inline constexpr std::string_view kQuantize = "quantize", kCompare = "compare";

/// An option as it was given, on the command line or in a config file; `path`: its value is one.
struct GivenOption {
  std::string name, value;
  bool path = false;
  std::string where{};  ///< for messages: "--rule", "FILE: [[rules]] 2 (line 14)"; no journal has it
};

// A type's list of fields, `each`, is called with a writer or a reader:
//   f("key", member)            must be there
//   f.later("key", member)      absent in journals of earlier versions, and where it has the value of a new object
// Members that only records of other files need stay out of it.

/// A start of the run, before it does anything.
struct StartRecord {
  static constexpr std::string_view kType = "start";
  std::int64_t number = 0;                      ///< from 1
  std::int64_t ranks = 0, pid = 0;              ///< pid: of rank 0
  std::string host;                             ///< of rank 0
  double time = 0;                              ///< unix_time()
  std::string model, tokenizer;                 ///< absolute paths; tokenizer: empty when it is the model's
  std::string version;                          ///< of the program; empty: of a version that did not tell
  std::map<std::string, std::string> packages;  ///< libraries whose version may matter -> version
  std::string directory;                        ///< the working directory
  core::Json machine;                           ///< what computes, see backend/machine.h; null: it did not tell
  std::string command{kQuantize};               ///< of voronoi, that made it
  std::vector<GivenOption> options;             ///< those given, without --run (--out of compare) and --set
  template <class Self, class Fields>
  static void each(Self& self, Fields& f) {
    f("number", self.number);
    f("ranks", self.ranks);
    f.later("host", self.host);
    f.later("pid", self.pid);
    f.later("time", self.time);
    f.later("model", self.model);
    f.later("tokenizer", self.tokenizer);
    f.later("version", self.version);
    f.later("packages", self.packages);
    f.later("directory", self.directory);
    f.later("machine", self.machine);
    f.later("command", self.command);
    f.later("options", self.options);
  }
};

/// A parameter changed for the layers that are not done yet (--set).
struct SetRecord {
  static constexpr std::string_view kType = "set";
  std::string assignment;  ///< NAME=VALUE
  template <class Self, class Fields>
  static void each(Self& self, Fields& f) {
    f("assignment", self.assignment);
  }
};

/// What a text of calibration gave; told by the first start that calibrates, and by later ones where it is another.
struct CalibrationTextRecord {
  static constexpr std::string_view kType = "calibration_text";
  std::int64_t number = 0;  ///< from 1, in the order of the texts
  std::string path, sha256;
  double weight = 1;
  std::int64_t windows = 0, tokens = 0;  ///< that were taken, and the tokens in them
  std::int64_t text_tokens = 0;          ///< of the whole text
  std::int64_t duplicates = 0;           ///< windows that were left out: their tokens are those of one before
  bool operator==(const CalibrationTextRecord&) const = default;
  template <class Self, class Fields>
  static void each(Self& self, Fields& f) {
    f("number", self.number);
    f("path", self.path);
    f("sha256", self.sha256);
    f("weight", self.weight);
    f("windows", self.windows);
    f("tokens", self.tokens);
    f("text_tokens", self.text_tokens);
    f.later("duplicates", self.duplicates);
  }
};

/// How many tokens the experts of a block's mixture got in calibration.
struct ExpertCoverage {
  static constexpr std::string_view kType = "expert_coverage";
  std::int64_t block = 0, experts = 0, covered = 0;  ///< covered: with tokens for Hessians of their own
  std::int64_t least = 0, median = 0;                ///< tokens an expert
  bool operator==(const ExpertCoverage&) const = default;
  template <class Self, class Fields>
  static void each(Self& self, Fields& f) {
    f("block", self.block);
    f("experts", self.experts);
    f("covered", self.covered);
    f("least", self.least);
    f("median", self.median);
  }
};

/// A quantized linear, published.
struct LayerRecord {
  static constexpr std::string_view kType = "layer";
  std::string name, sha256;  ///< of the shard file
  std::int64_t weights = 0, stored_bits = 0;
  double nominal_bits = 0, relative_error = 0, seconds = 0;
  std::int64_t calibration_tokens = 0;  ///< rows that entered the layer in calibration
  std::int64_t left_out_tokens = 0;     ///< rows besides, with inputs that were too large or not finite
  std::int64_t pooled_tokens = 0;       ///< above 0: a starved expert, its Hessian is the mean over so many rows
  std::int64_t rank = 0, start = 0;     ///< start: number of the one that made it
  std::int64_t generation = 0;          ///< 0: by quantization; each later stage that betters it adds one
  std::string parent;                   ///< digest of the generation it was made from; empty in generation 0
  core::Json statistics = core::Json::object();
  template <class Self, class Fields>
  static void each(Self& self, Fields& f) {
    f("name", self.name);
    f("sha256", self.sha256);
    f("weights", self.weights);
    f("stored_bits", self.stored_bits);
    f("nominal_bits", self.nominal_bits);
    f("relative_error", self.relative_error);
    f("seconds", self.seconds);
    f.later("calibration_tokens", self.calibration_tokens);
    f.later("left_out_tokens", self.left_out_tokens);
    f.later("pooled_tokens", self.pooled_tokens);
    f("rank", self.rank);
    f("start", self.start);
    f.later("generation", self.generation);
    f.later("parent", self.parent);
    f("statistics", self.statistics);
  }
};

/// A generation of a layer or tensor whose file was missing or damaged: it is made again, or the one before it counts.
struct LayerLost {
  static constexpr std::string_view kType = "layer_lost";
  std::string name;
  std::int64_t generation = 0;
  template <class Self, class Fields>
  static void each(Self& self, Fields& f) {
    f("name", self.name);
    f.later("generation", self.generation);
  }
};

/// A linear given up for what its numbers are.
struct LayerFailed {
  static constexpr std::string_view kType = "layer_failed";
  std::string name, task, error;
  template <class Self, class Fields>
  static void each(Self& self, Fields& f) {
    f("name", self.name);
    f.later("task", self.task);
    f("error", self.error);
  }
};

/// A linear that a rule leaves as the model has it: 16 bits a weight.
struct LeftUnquantized {
  static constexpr std::string_view kType = "left_unquantized";
  std::string name;
  std::int64_t weights = 0;
  template <class Self, class Fields>
  static void each(Self& self, Fields& f) {
    f("name", self.name);
    f("weights", self.weights);
  }
};

/// The choice of --allocate, which are rules of the run from then on. Losses: what the linears together are predicted
/// to add to the loss a token.
struct Allocated {
  static constexpr std::string_view kType = "allocated";
  std::vector<std::string> rules;                  ///< as --rule takes them; empty: one setting for all is better
  std::int64_t linears = 0, weights = 0;           ///< that the bits were divided among
  std::int64_t stored_bits = 0, uniform_bits = 0;  ///< of the division, and with one setting for all
  double loss_rise = 0, uniform_loss_rise = 0;     ///< of the same
  template <class Self, class Fields>
  static void each(Self& self, Fields& f) {
    f("rules", self.rules);
    f("linears", self.linears);
    f("weights", self.weights);
    f("stored_bits", self.stored_bits);
    f("uniform_bits", self.uniform_bits);
    f("loss_rise", self.loss_rise);
    f("uniform_loss_rise", self.uniform_loss_rise);
  }
};

/// A better version of a tensor that is no quantized linear (a norm, a bias), published. The model's own is
/// generation 0.
struct TensorRecord {
  static constexpr std::string_view kType = "tensor";
  std::string name, sha256;  ///< of the shard file
  std::int64_t generation = 1, start = 0;
  std::string parent;  ///< digest of the generation it was made from; empty: the model's own
  template <class Self, class Fields>
  static void each(Self& self, Fields& f) {
    f("name", self.name);
    f("sha256", self.sha256);
    f("generation", self.generation);
    f("start", self.start);
    f.later("parent", self.parent);
  }
};

/// A tensor of the model with values that cannot be used.
struct DamagedTensor {
  static constexpr std::string_view kType = "damaged_tensor";
  std::string tensor;
  std::int64_t values = 0;  ///< that counted as 0 in calibration
  std::string error;        ///< file, tensor, first position and value
  template <class Self, class Fields>
  static void each(Self& self, Fields& f) {
    f("tensor", self.tensor);
    f("values", self.values);
    f("error", self.error);
  }
};

/// A task given up, after several tries.
struct Quarantined {
  static constexpr std::string_view kType = "quarantined";
  std::string task, error;
  template <class Self, class Fields>
  static void each(Self& self, Fields& f) {
    f("task", self.task);
    f("error", self.error);
  }
};

struct TaskDone {
  static constexpr std::string_view kType = "task_done";
  std::string task;
  std::int64_t rank = 0, width = 0;  ///< the team's lowest rank and its size
  double seconds = 0, end = 0;       ///< end: unix_time()
  template <class Self, class Fields>
  static void each(Self& self, Fields& f) {
    f("task", self.task);
    f.later("rank", self.rank);
    f.later("width", self.width);
    f.later("seconds", self.seconds);
    f.later("end", self.end);
  }
};

struct TaskFailed {
  static constexpr std::string_view kType = "task_failed";
  std::string task, error;
  std::int64_t rank = 0, number = 0;  ///< number: of the try
  template <class Self, class Fields>
  static void each(Self& self, Fields& f) {
    f("task", self.task);
    f("rank", self.rank);
    f("try", self.number);
    f("error", self.error);
  }
};

/// A rank that got no more tasks of its window.
struct RankLeftOut {
  static constexpr std::string_view kType = "rank_left_out";
  std::int64_t rank = 0;
  std::string error;  ///< its last
  template <class Self, class Fields>
  static void each(Self& self, Fields& f) {
    f("rank", self.rank);
    f("error", self.error);
  }
};

/// A task that took far longer than predicted and was given to another rank too.
struct TaskOverdue {
  static constexpr std::string_view kType = "task_overdue";
  std::string task;
  std::int64_t rank = 0, other = 0;
  double seconds = 0;  ///< that `rank` had spent on it
  template <class Self, class Fields>
  static void each(Self& self, Fields& f) {
    f("task", self.task);
    f("rank", self.rank);
    f("other", self.other);
    f("seconds", self.seconds);
  }
};

/// Wall time spent in a stage; a stage has many of them.
struct StageTime {
  static constexpr std::string_view kType = "stage";
  std::string stage;
  double seconds = 0, end = 0;  ///< end: unix_time()
  template <class Self, class Fields>
  static void each(Self& self, Fields& f) {
    f("stage", self.stage);
    f("seconds", self.seconds);
    f.later("end", self.end);
  }
};

/// A stage came to its end.
struct StageDone {
  static constexpr std::string_view kType = "stage_done";
  std::string stage;
  double time = 0;  ///< unix_time()
  template <class Self, class Fields>
  static void each(Self& self, Fields& f) {
    f("stage", self.stage);
    f("time", self.time);
  }
};

/// What all ranks of a start did in a stage, by the names of core/work_counts.h; what it did none of is left out.
struct StageWork {
  static constexpr std::string_view kType = "work";
  std::string stage;
  std::int64_t start = 0;
  std::map<std::string, double> counts;
  template <class Self, class Fields>
  static void each(Self& self, Fields& f) {
    f("stage", self.stage);
    f("start", self.start);
    f("counts", self.counts);
  }
};

/// What handing out the tasks of a window took, see sched::PhaseCost.
struct SchedulingCost {
  static constexpr std::string_view kType = "scheduling";
  std::int64_t tasks = 0;
  double task_seconds = 0, waiting_seconds = 0, coordinator_seconds = 0;
  template <class Self, class Fields>
  static void each(Self& self, Fields& f) {
    f("tasks", self.tasks);
    f("task_seconds", self.task_seconds);
    f("waiting_seconds", self.waiting_seconds);
    f("coordinator_cpu_seconds", self.coordinator_seconds);
  }
};

/// A phase of tuning begins, or went on in a later start.
struct TuningBegun {
  static constexpr std::string_view kType = "tuning";
  std::string phase;                                    ///< "block", "end-to-end", "codes"
  std::int64_t base = 0;                                ///< generation of the layers that it starts from
  core::Json settings = core::Json::object();           ///< all that decides its result
  std::int64_t sequences = 0, held_out = 0, batch = 0;  ///< of training, held out, of a step
  std::int64_t context = 0, steps = 0;                  ///< tokens a sequence; steps planned (of each block)
  template <class Self, class Fields>
  static void each(Self& self, Fields& f) {
    f("phase", self.phase);
    f("base", self.base);
    f("settings", self.settings);
    f("sequences", self.sequences);
    f("held_out", self.held_out);
    f("batch", self.batch);
    f("context", self.context);
    f("steps", self.steps);
  }
};

/// A look of tuning at the text that is held out.
struct TuningPoint {
  static constexpr std::string_view kType = "tuning_point";
  std::string phase;
  std::int64_t block = -1;   ///< of the phase "block"
  std::int64_t step = 0;     ///< steps done
  double training_loss = 0;  ///< mean since the point before; 0 before the first step
  double held_out_loss = 0, learning_rate = 0;
  bool ran_away = false;  ///< the loss was not finite; held_out_loss is 0 then
  template <class Self, class Fields>
  static void each(Self& self, Fields& f) {
    f("phase", self.phase);
    f("block", self.block);
    f("step", self.step);
    f("training_loss", self.training_loss);
    f("held_out_loss", self.held_out_loss);
    f("learning_rate", self.learning_rate);
    f.later("ran_away", self.ran_away);
  }
};

/// A phase of tuning, or a block of it, came to its end.
struct TuningEnded {
  static constexpr std::string_view kType = "tuning_ended";
  std::string phase;
  std::int64_t block = -1;
  std::string end;  ///< "finished", "no gain" (the held-out loss fell no longer), "diverged"
  std::int64_t steps = 0, best_step = 0, fallbacks = 0;
  double first_loss = 0, best_loss = 0, seconds = 0;  ///< losses: held out; seconds: of the start that ended it
  template <class Self, class Fields>
  static void each(Self& self, Fields& f) {
    f("phase", self.phase);
    f("block", self.block);
    f("end", self.end);
    f("steps", self.steps);
    f("best_step", self.best_step);
    f("fallbacks", self.fallbacks);
    f("first_loss", self.first_loss);
    f("best_loss", self.best_loss);
    f("seconds", self.seconds);
  }
};

struct PeakMemory {
  static constexpr std::string_view kType = "memory";
  std::int64_t peak_bytes = 0;  ///< largest resident set of any rank
  template <class Self, class Fields>
  static void each(Self& self, Fields& f) {
    f("peak_bytes", self.peak_bytes);
  }
};

/// A start ended: on request.
struct Stopped {
  static constexpr std::string_view kType = "stopped";
  double time = 0;
  template <class Self, class Fields>
  static void each(Self& self, Fields& f) {
    f.later("time", self.time);
  }
};

/// A start came to the end of its stages.
struct Finished {
  static constexpr std::string_view kType = "finished";
  double time = 0;
  template <class Self, class Fields>
  static void each(Self& self, Fields& f) {
    f.later("time", self.time);
  }
};

/// Every type; a new one is its struct, its name here and its part of apply().
using Record = std::variant<StartRecord, SetRecord, CalibrationTextRecord, ExpertCoverage, LayerRecord, LayerLost,
                            LayerFailed, LeftUnquantized, Allocated, TensorRecord, DamagedTensor, Quarantined, TaskDone,
                            TaskFailed, RankLeftOut, TaskOverdue, StageTime, StageWork, StageDone, SchedulingCost,
                            TuningBegun, TuningPoint, TuningEnded, PeakMemory, Stopped, Finished>;

/// With a member "type" first.
core::Json to_json(const Record& record);
/// Throws FormatError, naming the file and the line, for a record that lacks what its type needs, and for a type that
/// this version does not know.
Record record_from_json(const core::Json& json, const std::string& file, std::size_t line);

/// A layer's record outside the journal, as ranks send it. Throws Json::exception.
LayerRecord layer_from_json(const core::Json& json);

}  // namespace voronoi::run
