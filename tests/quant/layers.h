// Small layers for tests of quantizers.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "backend/device.h"
#include "quant/quantizer.h"
#include "support/synthetic_layer.h"

namespace voronoi::test {

struct Layer {
  std::int64_t out_features = 0, in_features = 0;
  std::vector<float> weight;  ///< [out, in]
  quant::PreparedHessian hessian;

  quant::QuantInput input(core::DType dtype = core::DType::f16) const {
    return {"model.layers.0.mlp.up_proj", out_features, in_features, weight, &hessian, dtype};
  }
};

/// Packed lower triangle of a symmetric [n, n].
inline std::vector<float> lower_triangle(std::int64_t n, const std::vector<float>& full) {
  std::vector<float> lower;
  for (std::int64_t i = 0; i < n; ++i)
    for (std::int64_t j = 0; j <= i; ++j) lower.push_back(full[static_cast<std::size_t>(i * n + j)]);
  return lower;
}

inline Layer make_layer(backend::Context& context, std::int64_t out_features, std::int64_t in_features,
                        std::uint64_t seed, bool act_order) {
  SyntheticLayer layer = make_synthetic_layer(out_features, in_features, seed);
  return {out_features, in_features, std::move(layer.weight),
          quant::prepare_hessian(context, in_features, layer.lower, 0.01, act_order)};
}

}  // namespace voronoi::test
