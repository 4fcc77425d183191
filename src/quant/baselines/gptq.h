// GPTQ (Frantar, Ashkboos, Hoefler, Alistarh: GPTQ: Accurate Post-Training Quantization for Generative Pre-trained
// Transformers, ICLR 2023): columns in turn, each column's error spread over those to come by the factor of the inverse
// Hessian. The rules on grids are those of the authors' program (IST-DASLab/gptq): its static_groups, and its default.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/types.h"
#include "quant/baselines/uniform.h"
#include "quant/method.h"

namespace voronoi::quant {

const Method& gptq_method();

/// Which columns make a group, and which weights its grid spans.
enum class GroupGrid {
  fixed,     ///< neighbours in the weight, on the weights as they are: no order needs to be stored
  original,  ///< neighbours in the order of the loop, on the weights as they stood at the start of the block of 128
             ///< columns that the group begins in: what the block's own columns spread is not in them
};

struct GptqParameters {
  std::string group_grid = "static";
};

/// "group-grid", and what it says.
Parameter group_grid_parameter();
GroupGrid grid_rule(const QuantParameters& parameters);
/// Adds what is wrong with a layer whose column order has to be stored.
void check_order(std::int64_t in_features, Problems& problems);
/// The order of the loop as formats store it, where the rule needs it and it is not the natural one; else empty.
std::vector<std::uint16_t> stored_order(const QuantInput& input, GroupGrid rule);
/// What the report has on the Hessian of a loop with error feedback.
void add_damping_figures(const QuantInput& input, QuantResult& result);

struct GptqSettings {
  int bits = 2;
  std::int64_t group_size = 0;  ///< in effect: 1..in_features
  GroupGrid group_grid = GroupGrid::fixed;
  core::DType scale_dtype = core::DType::f16;  ///< f16, bf16, or f32 as the original has it
};

/// Codes of the rows `range`: fixed grids have columns in natural order, those of the original in the order of the
/// Hessian's perm. range.begin is a multiple of kRowTile. Dead inputs keep their weights (the original sets them to 0):
/// they cost nothing here, and the calibration text may just have missed them. The loop runs on the host whatever the
/// device is, with the factor copied there.
UniformCodes gptq_codes(backend::Context& context, const QuantInput& input, const RowRange& range,
                        const GptqSettings& settings);

}  // namespace voronoi::quant
