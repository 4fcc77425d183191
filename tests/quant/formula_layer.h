// A layer from a formula that any language repeats: what other programs answer on it stands in tests as numbers.
#pragma once

#include <cmath>
#include <cstdint>
#include <vector>

#include "quant/layers.h"

namespace voronoi::test {

inline std::uint32_t mixed(std::uint32_t h) {
  h ^= h >> 16U;
  h *= 0x85EBCA6BU;
  h ^= h >> 13U;
  h *= 0xC2B2AE35U;
  return h ^ h >> 16U;
}

/// About normal, variance 1: the sum of four evenly distributed numbers.
inline double formula_normal(std::int64_t i) {
  double sum = 0;
  for (std::int64_t j = 1; j <= 4; ++j) sum += static_cast<double>(mixed(static_cast<std::uint32_t>(4 * i + j)));
  return (sum / 0x1p32 - 2) * std::sqrt(3.0);
}

/// Rows of five sizes; inputs of five sizes, correlated with a spectrum of 1/k.
inline Layer formula_layer(backend::Context& context, std::int64_t out, std::int64_t in, double damping,
                           bool act_order) {
  Layer layer{out, in, {}, {}};
  for (std::int64_t r = 0; r < out; ++r)
    for (std::int64_t c = 0; c < in; ++c)
      layer.weight.push_back(
          static_cast<float>(0.02 * (1 + static_cast<double>(r % 5) / 4) * formula_normal(r * in + c)));
  std::vector<double> a;
  for (std::int64_t c = 0; c < in; ++c)
    for (std::int64_t k = 0; k < in; ++k)
      a.push_back(std::exp2(static_cast<double>(c * 7 % 5 - 2)) * formula_normal(100000 + c * in + k) /
                  std::sqrt(static_cast<double>(k + 1)));
  std::vector<float> lower;
  for (std::int64_t i = 0; i < in; ++i)
    for (std::int64_t j = 0; j <= i; ++j) {
      double sum = 0;
      for (std::int64_t k = 0; k < in; ++k)
        sum += a[static_cast<std::size_t>(i * in + k)] * a[static_cast<std::size_t>(j * in + k)];
      lower.push_back(static_cast<float>(sum));
    }
  layer.hessian = quant::prepare_hessian(context, in, lower, damping, act_order);
  return layer;
}

}  // namespace voronoi::test
