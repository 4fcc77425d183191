// GPTQ (Frantar, Ashkboos, Hoefler, Alistarh: GPTQ: Accurate Post-Training Quantization for Generative Pre-trained
// Transformers, ICLR 2023): columns in turn, each column's error spread over those to come by the factor of the inverse
// Hessian.
#pragma once

#include <cstdint>

#include "core/types.h"
#include "quant/baselines/uniform.h"
#include "quant/method.h"

namespace voronoi::quant {

const Method& gptq_method();

struct GptqSettings {
  int bits = 2;
  std::int64_t group_size = 0;                 ///< in effect: 1..in_features
  core::DType scale_dtype = core::DType::f16;  ///< f16, bf16, or f32 as the original has it
};

/// Codes of the rows `range`, columns in the order of the Hessian's perm. A group's grid is found on the compensated
/// weights when its first column is reached. range.begin is a multiple of kRowTile. Dead inputs keep their weights (the
/// original sets them to 0): they cost nothing here, and the calibration text may just have missed them. The loop runs
/// on the host whatever the device is, with the factor copied there.
UniformCodes gptq_codes(backend::Context& context, const QuantInput& input, const RowRange& range,
                        const GptqSettings& settings);

}  // namespace voronoi::quant
