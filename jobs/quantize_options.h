// Options of `voronoi quantize`.
#pragma once

#include <cstdint>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "jobs/command_line.h"
#include "model/config.h"
#include "quant/parameters.h"

namespace voronoi::jobs {

struct QuantizeOptions {
  std::string model, run, tokenizer;
  std::vector<std::string> calibration_texts;
  std::int64_t calibration_sequences = 64, calibration_context = 2048;
  std::string calibration = "independent";
  std::string device = "auto", dtype = "auto";
  std::string stages;  ///< separated by commas; empty: all that apply, see has_stage()
  std::string export_profile = "safe";
  std::int64_t hessian_window = 4;
  bool keep_hessians = false;
  std::string hessians_from;
  std::int64_t team_size = 0;
  int threads = 0;
  int max_attempts = 2;
  std::vector<std::string> set;
  std::string log_level = "info";
  quant::QuantParameters parameters;
  std::optional<double> bits;   ///< --bits, when given
  std::set<std::string> given;  ///< names of the method parameters that were given
};

CommandSpec quantize_command(QuantizeOptions& options);

OptionSpec export_profile_option(std::string& profile);

/// Whether a stage is to run. Without --stages that is every one; export, however, only where the format can hold what
/// the parameters make.
bool has_stage(const QuantizeOptions& options, std::string_view stage);
/// Whether the user asked for the stage by name.
bool asks_for_stage(const QuantizeOptions& options, std::string_view stage);

/// Problems of --bits with the method and with options that say the same.
std::vector<std::string> check_bits(const QuantizeOptions& options);

/// For methods that choose by --bits: puts the setting that fits the wanted bits on this model into the parameters and
/// says in a line what it is; does nothing without --bits. Throws ConfigError when none fits.
void resolve_bits(QuantizeOptions& options, const model::ModelConfig& config);

/// Problems of values that depend on each other and of missing options.
std::vector<std::string> check(const QuantizeOptions& options);

}  // namespace voronoi::jobs
