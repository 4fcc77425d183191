// What a quantized linear will take, from parameters and shape alone.
#pragma once

#include <cstdint>

#include "quant/quantizer.h"

namespace voronoi::quant {

/// Bits that quantizing an operator will store, and where they go. Exact, but for gptq with act-order: a Hessian whose
/// diagonal falls already needs no permutation.
struct StoredBits {
  std::int64_t indices = 0;    ///< packed, with padding; outlier indices included
  std::int64_t codebooks = 0;  ///< main, residual, outlier
  std::int64_t scales = 0;     ///< scales, biases, zeros
  std::int64_t permutation = 0;
  std::int64_t total() const { return indices + codebooks + scales + permutation; }
};

/// For parameters and a shape without problems (check_shape).
StoredBits planned_bits(const QuantParameters& parameters, std::int64_t out_features, std::int64_t in_features);

/// Index bits a weight alone, as papers quote.
double planned_nominal_bits(const QuantParameters& parameters);

}  // namespace voronoi::quant
