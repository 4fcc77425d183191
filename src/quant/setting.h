// Settings for a wanted number of bits on the layers of a model: what --bits means to methods that choose by it.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>

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
/// The last of the settings, which rise in bits, with at most `wanted` true bits and that share more; nothing when none
/// has so few.
std::optional<QuantParameters> last_within(std::span<const QuantParameters> settings, double wanted,
                                           std::span<const LayerCount> layers);
/// What can be wanted.
inline constexpr double kLeastBits = 0.5, kMostBits = 8;

class Method;

/// What is wrong with `bits` wanted of a method: fractions of methods with whole bits, and parameters that the bits
/// choose, where `is_given` says that they were given too.
Problems bits_problems(const Method& method, double bits, const std::function<bool(const std::string&)>& is_given);

}  // namespace voronoi::quant
