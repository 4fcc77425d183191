// A synthetic operator with its prepared Hessian, shared by the tests of the vector quantizers.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "quant/quantizer.h"
#include "support/synthetic_layer.h"

namespace voronoi::quant {

struct Layer {
  std::string name;
  std::int64_t out = 0, in = 0;
  std::vector<float> weight;
  PreparedHessian hessian;
  core::DType dtype = core::DType::f16;

  QuantInput input() const { return {name, out, in, weight, &hessian, dtype}; }
};

inline Layer make_named_layer(std::string name, std::uint64_t seed, std::int64_t out, std::int64_t in,
                              bool act_order = true, test::SyntheticSpread spread = {}) {
  backend::Context context(backend::Device::cpu, 1);
  test::SyntheticLayer made = test::make_synthetic_layer(out, in, seed, spread);
  return {std::move(name), out, in, std::move(made.weight), prepare_hessian(context, in, made.lower, 0.01, act_order)};
}

inline QuantParameters parameters_of(std::int64_t v, std::int64_t k, std::int64_t kr = 0) {
  QuantParameters parameters;
  parameters.vector_length = v;
  parameters.centroids = k;
  parameters.residual_centroids = kr;
  return parameters;
}

}  // namespace voronoi::quant
