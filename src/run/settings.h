// What a quantization run was asked to do.
#pragma once

#include <cstdint>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "calib/footprint.h"
#include "export/profile.h"
#include "quant/parameters.h"
#include "quant/rules.h"
#include "run/records.h"

namespace voronoi::run {

/// Tokens of a sequence that tunes, where the windows of calibration are not shorter; looks at the held-out text in the
/// course of a descent.
inline constexpr std::int64_t kTuningContext = 1024, kTuningLooks = 4;

/// Of --hessian-groups: --allocate looks at rows in as many pieces.
inline constexpr std::int64_t kMostHessianGroups = 16;

struct Settings {
  std::string command{kQuantize};  ///< of voronoi, see StartRecord
  std::string model, run, tokenizer;
  std::vector<std::string> calibration_texts;
  std::string calibration_preset, calibration_data;  ///< a list of texts, and the folder that they lie in
  std::vector<std::string> missing_texts;            ///< of the list, with the remedy
  std::vector<std::int64_t> calibration_weights;     ///< of the texts, in thousandths; empty: all alike
  std::string calibration_duplicates = "drop";       ///< or "keep": windows with the tokens of one before
  std::string calibration_experts = "routed";        ///< or "all": the rows that experts have Hessians of
  std::int64_t calibration_sequences = 64, calibration_context = 2048;
  std::string calibration = "independent";
  std::string effort = "normal";        ///< quick, normal or best: what stands for options that were not given
  std::string hessian = "plain";        ///< or "guided": rows count as the loss feels them
  std::int64_t hessian_groups = 1;      ///< of a linear's outputs, each with a guided Hessian of its own
  std::string target = "plain";         ///< or "asymmetric": what makes up for the error of the blocks before
  double calibration_held_out = 0.125;  ///< share of the sequences that enter no Hessian and judge what others made
  std::string device = "auto", dtype = "auto";
  std::string stages;  ///< separated by commas; empty: all that apply
  std::string export_layout = "auto", export_profile = "safe";
  std::int64_t hessian_window = 4;
  bool keep_hessians = false;
  std::string hessians_from;
  /// "none", or phases of tuning separated by commas: "block", "end-to-end", "codes", "weights".
  std::string tune = "none";
  std::vector<std::string> tune_texts;  ///< empty: those of calibration
  std::int64_t tune_tokens = 0;         ///< 0: as many as calibration takes
  std::int64_t tune_passes = 1;
  double tune_held_out = 0.125;
  std::string tune_dtype = "f32";           ///< or "bf16": of products
  double tune_learning_rate = 0;            ///< 0: by size and bits
  std::vector<std::string> validate_texts;  ///< empty: none
  std::string validate_join = "auto";       ///< how they are read, as `eval` does
  std::int64_t validate_context = 2048, validate_windows = 0;
  std::string validate_tasks, task_data;  ///< names or files separated by commas, and the folder of their data
  std::int64_t validate_limit = 0, validate_shots = 0;
  std::int64_t team_size = 0;
  int threads = 0;
  int max_tries = 2;
  std::vector<std::string> set;
  std::string log_level = "info";
  quant::QuantParameters parameters;
  std::vector<quant::Rule> rules;
  std::optional<double> bits;              ///< --bits, when given
  bool allocate = false;                   ///< they are divided among the linears by what the loss feels
  std::set<std::string> given_parameters;  ///< names of the parameters of quantization that were given
  std::vector<GivenOption> given;          ///< what a resume from the directory alone takes, see StartRecord
};

/// What the run's own parameters and options ask of its export; its layout is "auto" only where none holds what the
/// method makes.
exporting::Target export_target(const Settings& settings);
/// Why settings cannot be exported, all reasons at once.
std::vector<std::string> export_problems(const Settings& settings);

/// Those of --stages, in the order given.
std::vector<std::string> stage_list(const Settings& options);
/// Whether the user asked for the stage by name.
bool asks_for_stage(const Settings& options, std::string_view stage);

/// Those of --validate-tasks.
std::vector<std::string> validate_tasks(const Settings& options);

/// Phases of --tune-phases, in the order in which they run; empty: none.
std::vector<std::string> tune_phases(const Settings& options);

/// What calibration sums of each block's inputs.
calib::HessianKind hessian_kind(const Settings& options);

/// Blocks whose Hessians are on disk at a time.
std::int64_t hessian_window(const Settings& options, std::int64_t n_layers);

/// Of every linear, without --set. With a model, once planning::resolve_bits has put in what bits stand for.
/// `allocated`: what --allocate chose; the options' own rules win.
quant::RunParameters run_parameters(const Settings& options, const std::vector<std::string>& allocated = {});

/// Problems of --bits with the method and with options that say the same.
std::vector<std::string> check_bits(const Settings& options);

/// Problems of --allocate.
std::vector<std::string> check_allocate(const Settings& options);

/// Problems of --hessian-groups with the method and with options that it does not go with.
std::vector<std::string> check_row_groups(const Settings& options);

/// Problems of calibration's texts with their weights.
std::vector<std::string> check_texts(const Settings& options);

/// Problems of values that depend on each other and of missing options.
std::vector<std::string> check(const Settings& options);

}  // namespace voronoi::run
