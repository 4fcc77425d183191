// A synthetic operator with its prepared Hessian, shared by the tests of the vector quantizers.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "quant/quantizer.h"
#include "quant/vq/layout.h"
#include "quant/vq/state.h"
#include "quant/vq/vector_parameters.h"
#include "support/synthetic_layer.h"

namespace voronoi::quant {

/// A Hessian with the context whose memory it is in.
struct OwnHessian {
  explicit OwnHessian(backend::Device device) : context(device, 1) {}
  backend::Context context;
  PreparedHessian prepared;
};

/// Copies share the Hessian.
struct Layer {
  std::string name;
  std::int64_t out = 0, in = 0;
  std::vector<float> weight;
  std::shared_ptr<OwnHessian> own;
  core::DType dtype = core::DType::f16;

  PreparedHessian& hessian() const { return own->prepared; }
  QuantInput input() const { return {name, out, in, weight, &own->prepared, dtype}; }
  void prepare(const std::vector<float>& lower, double damping, bool act_order,
               backend::Device device = backend::Device::cpu) {
    own = std::make_shared<OwnHessian>(device);
    own->prepared = prepare_hessian(own->context, in, lower, damping, act_order);
  }
};

inline Layer make_named_layer(std::string name, std::uint64_t seed, std::int64_t out, std::int64_t in,
                              bool act_order = true, test::SyntheticSpread spread = {},
                              backend::Device device = backend::Device::cpu) {
  test::SyntheticLayer made = test::make_synthetic_layer(out, in, seed, spread);
  Layer layer{std::move(name), out, in, std::move(made.weight), nullptr};
  layer.prepare(made.lower, 0.01, act_order, device);
  return layer;
}

inline QuantParameters parameters_of(std::int64_t v, std::int64_t k, std::int64_t kr = 0) {
  QuantParameters parameters;
  parameters.get<VectorParameters>().vector_length = v;
  parameters.get<VectorParameters>().centroids = k;
  parameters.get<VectorParameters>().residual_centroids = kr;
  return parameters;
}

/// Q of this member's rows, natural order; rows of other members are zero.
inline std::vector<float> natural_quantized(const Layer& layer, const VqRows& rows, const VqState& state) {
  std::vector<float> weight(layer.weight.size());
  const std::vector<float> quantized = state.quantized.to_host();
  for (const VqPiece& piece : rows.pieces)
    for (std::int64_t p = 0; p < layer.in; ++p)
      for (std::int64_t r = 0; r < piece.slice.rows; ++r)
        weight[static_cast<std::size_t>((piece.parts.row_begin + r) * layer.in +
                                        layer.hessian().perm[static_cast<std::size_t>(p)])] =
            quantized[static_cast<std::size_t>(piece.first_value + p * piece.slice.width + r)];
  return weight;
}

}  // namespace voronoi::quant
