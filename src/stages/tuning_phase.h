// A phase of tuning: from one generation of the layers it makes the next.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "run/layer_store.h"
#include "stages/work.h"
#include "tune/descent.h"
#include "tune/tuned_block.h"

namespace voronoi::stages {

/// The phases of --tune-phases.
inline constexpr const char* kBlockPhase = "block";
inline constexpr const char* kCodesPhase = "codes";
inline constexpr const char* kWeightsPhase = "weights";
/// As tune names itself in the journal and to whoever watches.
inline constexpr const char* kTuneStage = "tune";

/// What it starts from is generation `base` of every layer and `norm_base` of the final norm, what it publishes the
/// next. All calls are collective.
class TuningPhase {
 public:
  TuningPhase(Work& work, std::string name, std::int64_t base, std::int64_t norm_base);
  virtual ~TuningPhase() = default;
  TuningPhase(const TuningPhase&) = delete;
  TuningPhase& operator=(const TuningPhase&) = delete;

  /// Nothing where all of its generation is there.
  void run();

 protected:
  /// Publishes what of the generation is pending; returns early where the work is stopped.
  virtual void descend() = 0;

  model::ModelConfig const& config() const { return work_.config(); }
  bool is_quantized(const model::LinearSpec& linear) const { return work_.run.parameters.of(linear.name) != nullptr; }
  /// The run's layers, and norms of blocks where an earlier phase made them, as of a generation.
  std::unique_ptr<run::RunSource> make_source(std::int64_t generation) const;
  /// Rank 0: whether the newest generation of a layer or norm is older than the phase's.
  bool lacks_layer(const std::string& name) const { return work_.run.state.layers.at(name).generation <= base_; }
  bool lacks_tensor(const std::string& name, std::int64_t generation) const;
  bool moves_codes() const { return name_ == kCodesPhase || name_ == kWeightsPhase; }
  std::uint64_t seed() const { return static_cast<std::uint64_t>(work_.run.parameters.of_run().seed); }
  std::optional<format::Encoding> read_base(const std::string& linear) const;
  /// What all descents of the phase share.
  tune::Descent calls(std::int64_t block);
  /// Rank 0: published and journalled unless it is there.
  void publish(std::int64_t layer, const tune::BlockResult& result, double seconds);
  void publish_norm(const std::string& name, std::int64_t generation, std::span<const float> values);
  void journal_end(std::int64_t block, tune::DescentEnd end, const tune::DescentState& state, double seconds);
  void show(const std::string& doing, double predicted, double elapsed, double share);
  /// Of products.
  core::DType dtype() const { return work_.settings.tune_dtype == "bf16" ? core::DType::bf16 : core::DType::f32; }
  double seconds_of(double operations) const {
    return operations / planning::forward_rate(work_.rates, work_.context.device(), work_.settings.tune_dtype);
  }

  Work& work_;
  std::string name_;
  std::int64_t base_, norm_base_;
  double nominal_bits_ = 0;
  std::unique_ptr<run::RunSource> source_;
  tune::DescentPlan plan_;
  std::set<std::int64_t> pending_;
  std::string settings_;
  double held_out_ = 0;  // on rank 0: of the last look

 private:
  std::vector<std::string> norm_names(std::int64_t layer) const;
  std::vector<std::string> linear_names(std::int64_t layer) const;
  /// Blocks of which something is to be published; the number behind the last stands for the final norm.
  void find_pending();
  /// Everything that decides what the phase makes, the layers that it starts from included.
  core::Json settings_json() const;
  /// Rank 0: the phase may not have begun with others.
  void check_settings(const core::Json& now) const;
  void begin(const core::Json& settings);
};

std::unique_ptr<TuningPhase> block_phase(Work& work, std::int64_t base, std::int64_t norm_base);
/// Of all numbers of the model; with codes where `name` is kCodesPhase, and of the weights behind the codes in the
/// place of the numbers of linears where it is kWeightsPhase.
std::unique_ptr<TuningPhase> whole_model_phase(Work& work, const std::string& name, std::int64_t base,
                                               std::int64_t norm_base);

}  // namespace voronoi::stages
