// Settings for a wanted number of bits on the layers of a model: what --bits means to methods that choose by it.
#pragma once

#include <cstdint>
#include <optional>
#include <span>

#include "quant/parameters.h"

namespace voronoi::quant {

/// Linears of one shape.
struct LayerCount {
  std::int64_t out_features = 0, in_features = 0, count = 0;
};

/// True bits a weight over all layers: everything stored, codebooks and padding included.
double true_bits(const QuantParameters& parameters, std::span<const LayerCount> layers);

/// True bits may exceed the wanted ones by this share.
inline constexpr double kBitsMargin = 0.02;

/// Method::choose_setting and least_true_bits of the method of `base`.
std::optional<QuantParameters> choose_setting(const QuantParameters& base, double wanted,
                                              std::span<const LayerCount> layers);
std::optional<double> least_true_bits(const QuantParameters& base, std::span<const LayerCount> layers);

}  // namespace voronoi::quant
