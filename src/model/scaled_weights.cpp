#include "model/scaled_weights.h"

#include <array>
#include <cmath>
#include <limits>

namespace voronoi::model {
namespace {

using core::Json;

/// Bias 7, largest 448, no infinities, subnormals in steps of 2^-9.
std::array<float, 256> f8_values() {
  std::array<float, 256> values{};
  for (std::size_t code = 0; code < values.size(); ++code) {
    const auto exponent = static_cast<int>(code >> 3 & 15U), fraction = static_cast<int>(code & 7U);
    const double size = exponent == 0 ? std::ldexp(fraction, -9) : std::ldexp(8 + fraction, exponent - 10);
    values[code] = static_cast<float>(code >= 128 ? -size : size);
    if ((code & 127U) == 127U) values[code] = std::numeric_limits<float>::quiet_NaN();
  }
  return values;
}

constexpr std::array<float, 8> kF4Values{0, 0.5F, 1, 1.5F, 2, 3, 4, 6};
constexpr std::size_t kF4Block = 32;

bool has_word(const Json& object, const char* key, const char* wanted) {
  const auto found = object.find(key);
  return found != object.end() && *found == wanted;
}

}  // namespace

ScaledWeights scaled_weights(const Json& config) {
  ScaledWeights scaled;
  const auto found = config.find("quantization_config");
  if (found == config.end() || !found->is_object()) return scaled;
  if (has_word(*found, "quant_method", "mxfp4")) {
    scaled.kind = ScaledWeights::Kind::mxfp4;
  } else if (has_word(*found, "quant_method", "compressed-tensors") && has_word(*found, "format", "float-quantized")) {
    scaled.kind = ScaledWeights::Kind::fp8_rows;
  } else if (has_word(*found, "quant_method", "fp8")) {
    constexpr std::int64_t kLargest = 1 << 20;
    const auto block = found->find("weight_block_size");
    if (block == found->end() || !block->is_array() || block->size() != 2) return scaled;
    for (const Json& size : *block)
      if (!size.is_number_integer() || size < 1 || size > kLargest) return scaled;
    scaled = {ScaledWeights::Kind::fp8_blocks, (*block)[0].get<std::int64_t>(), (*block)[1].get<std::int64_t>()};
  }
  return scaled;
}

void decode_f8_row(std::span<const std::byte> bytes, const float* scales, std::int64_t block, float* out) {
  static const std::array<float, 256> values = f8_values();
  const auto step = static_cast<std::size_t>(block);
  for (std::size_t i = 0; i < bytes.size(); ++i)
    out[i] = values[std::to_integer<std::size_t>(bytes[i])] * scales[i / step];
}

void decode_mxfp4_row(std::span<const std::byte> blocks, std::span<const std::byte> scales, float* out) {
  for (std::size_t i = 0; i < 2 * blocks.size(); ++i) {
    const unsigned code = std::to_integer<unsigned>(blocks[i / 2]) >> (i % 2 * 4) & 15U;
    const float value = std::ldexp(kF4Values[code & 7U], std::to_integer<int>(scales[i / kF4Block]) - 127);
    out[i] = (code & 8U) != 0 ? -value : value;
  }
}

}  // namespace voronoi::model
