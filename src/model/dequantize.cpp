// Block formats of GGUF (ggml-common.h of ggml-org/ggml): little-endian, scales as halves.
#include <array>
#include <cmath>
#include <cstring>

#include "core/error.h"
#include "model/gguf.h"

namespace voronoi::model {
namespace {

float half_at(const std::byte* source) {
  std::uint16_t bits;
  std::memcpy(&bits, source, sizeof bits);
  return core::half_to_float(bits);
}

unsigned stored_byte(const std::byte* source, std::size_t i) { return std::to_integer<unsigned>(source[i]); }

constexpr std::size_t kSmallBlock = 32;

/// Element i of 32 whose nibbles lie as in Q4_0 and whose fifth bits are those of four bytes, the lowest first.
unsigned five_bits(const std::byte* bits, const std::byte* nibbles, std::size_t i) {
  const unsigned nibble = (stored_byte(nibbles, i % 16) >> (i < 16 ? 0U : 4U)) & 15U;
  return nibble | (((stored_byte(bits, i / 8) >> (i % 8)) & 1U) << 4U);
}

/// Pair of bits of element i of a K-quant: see dequantize_q2_k.
unsigned pair_of(const std::byte* pairs, std::size_t i) {
  return (stored_byte(pairs, 32 * (i / 128) + i % 32) >> (2 * ((i / 32) % 4))) & 3U;
}

/// 18 bytes: d, 16 bytes of nibbles; the low ones are elements 0 to 15. w = d (q - 8).
void dequantize_q4_0(const std::byte* block, float* out) {
  const float d = half_at(block);
  for (std::size_t i = 0; i < kSmallBlock / 2; ++i) {
    const auto byte = static_cast<int>(block[2 + i]);
    out[i] = d * static_cast<float>((byte & 15) - 8);
    out[i + kSmallBlock / 2] = d * static_cast<float>((byte >> 4) - 8);
  }
}

/// 20 bytes: d, m, nibbles as in Q4_0. w = d q + m.
void dequantize_q4_1(const std::byte* block, float* out) {
  const float d = half_at(block), m = half_at(block + 2);
  for (std::size_t i = 0; i < kSmallBlock / 2; ++i) {
    const auto byte = static_cast<int>(block[4 + i]);
    out[i] = d * static_cast<float>(byte & 15) + m;
    out[i + kSmallBlock / 2] = d * static_cast<float>(byte >> 4) + m;
  }
}

/// 34 bytes: d, 32 signed bytes. w = d q.
void dequantize_q8_0(const std::byte* block, float* out) {
  const float d = half_at(block);
  for (std::size_t i = 0; i < kSmallBlock; ++i) out[i] = d * static_cast<float>(static_cast<signed char>(block[2 + i]));
}

/// 210 bytes: low nibbles [128], high pairs of bits [64], signed scales [16] (one for 16 elements), d. w = (d s) (q -
/// 32). Each half of 128 elements takes 64 bytes of nibbles and 32 of pairs: element 32 g + l has pair g of byte l, and
/// the low (g < 2) or high nibble of byte 32 (g mod 2) + l.
void dequantize_q6_k(const std::byte* block, float* out) {
  const std::byte *nibbles = block, *pairs = block + 128, *scales = block + 192;
  const float d = half_at(block + 208);
  for (std::size_t half = 0; half < 2; ++half)
    for (std::size_t group = 0; group < 4; ++group)
      for (std::size_t l = 0; l < 32; ++l) {
        const auto nibble = static_cast<unsigned>(nibbles[64 * half + 32 * (group % 2) + l]) >> (group < 2 ? 0U : 4U);
        const auto pair = static_cast<unsigned>(pairs[32 * half + l]) >> (2 * group);
        const auto q = static_cast<int>((nibble & 15U) | ((pair & 3U) << 4U)) - 32;
        const std::size_t element = 128 * half + 32 * group + l;
        const float scale = d * static_cast<float>(static_cast<signed char>(scales[element / 16]));
        out[element] = scale * static_cast<float>(q);
      }
}

/// 22 bytes: d, a fifth bit of each element, nibbles as in Q4_0. w = d (q - 16).
void dequantize_q5_0(const std::byte* block, float* out) {
  const float d = half_at(block);
  for (std::size_t i = 0; i < kSmallBlock; ++i)
    out[i] = d * static_cast<float>(static_cast<int>(five_bits(block + 2, block + 6, i)) - 16);
}

/// 24 bytes: d, m, then as Q5_0. w = d q + m.
void dequantize_q5_1(const std::byte* block, float* out) {
  const float d = half_at(block), m = half_at(block + 2);
  for (std::size_t i = 0; i < kSmallBlock; ++i) out[i] = d * static_cast<float>(five_bits(block + 4, block + 8, i)) + m;
}

/// 84 bytes: for each 16 elements a nibble of scale and one of minimum [16], pairs of bits [64], d, dmin.
/// w = (d s) q - (dmin m). Each half of 128 elements takes 32 bytes of pairs: element 32 g + l has pair g of byte l.
void dequantize_q2_k(const std::byte* block, float* out) {
  const std::byte *scales = block, *pairs = block + 16;
  const float d = half_at(block + 80), low = half_at(block + 82);
  for (std::size_t group = 0; group < 16; ++group) {
    const unsigned packed = stored_byte(scales, group);
    const float scale = d * static_cast<float>(packed & 15U), minimum = low * static_cast<float>(packed >> 4U);
    for (std::size_t i = 16 * group; i < 16 * group + 16; ++i)
      out[i] = scale * static_cast<float>(pair_of(pairs, i)) - minimum;
  }
}

/// 110 bytes: a bit an element [32], pairs as in Q2_K [64], 16 scales of six bits [12], d. w = (d (s - 32)) (q - 4, or
/// q where the bit is set). Bit g of byte l belongs to element 32 g + l; of the scales the low nibbles of the first
/// eight stand in the low halves of 8 bytes, those of the others in the high ones, and their high pairs in four bytes.
void dequantize_q3_k(const std::byte* block, float* out) {
  const std::byte *bits = block, *pairs = block + 32, *scales = block + 96;
  const float d = half_at(block + 108);
  for (std::size_t group = 0; group < 16; ++group) {
    const unsigned nibble = (stored_byte(scales, group % 8) >> (group < 8 ? 0U : 4U)) & 15U;
    const unsigned high = (stored_byte(scales, 8 + group % 4) >> (2 * (group / 4))) & 3U;
    const float scale = d * static_cast<float>(static_cast<int>(nibble | (high << 4U)) - 32);
    for (std::size_t i = 16 * group; i < 16 * group + 16; ++i) {
      const bool set = ((stored_byte(bits, i % 32) >> (i / 32)) & 1U) != 0;
      out[i] = scale * static_cast<float>(static_cast<int>(pair_of(pairs, i)) - (set ? 0 : 4));
    }
  }
}

/// Scale and minimum of 32 elements, six bits each, of the 12 bytes of Q4_K and Q5_K: those of the first four groups
/// are the low bits of 4 bytes each, those of the others nibbles of the last 4 under the high pairs of the former.
struct ScaleAndMinimum {
  float scale, minimum;
};
ScaleAndMinimum scale_and_minimum(const std::byte* packed, std::size_t group) {
  if (group < 4)
    return {static_cast<float>(stored_byte(packed, group) & 63U),
            static_cast<float>(stored_byte(packed, group + 4) & 63U)};
  const unsigned nibbles = stored_byte(packed, group + 4);
  return {static_cast<float>((nibbles & 15U) | ((stored_byte(packed, group - 4) >> 2U) & 48U)),
          static_cast<float>((nibbles >> 4U) | ((stored_byte(packed, group) >> 2U) & 48U))};
}

/// Nibble of element i where 32 bytes hold 64 elements: the low ones, then the high ones.
unsigned nibble_of(const std::byte* nibbles, std::size_t i) {
  return (stored_byte(nibbles, 32 * (i / 64) + i % 32) >> ((i / 32) % 2 == 0 ? 0U : 4U)) & 15U;
}

/// 144 bytes: d, dmin, scales and minimums [12], nibbles [128]. w = (d s) q - (dmin m).
void dequantize_q4_k(const std::byte* block, float* out) {
  const float d = half_at(block), low = half_at(block + 2);
  for (std::size_t group = 0; group < 8; ++group) {
    const auto [s, m] = scale_and_minimum(block + 4, group);
    const float scale = d * s, minimum = low * m;
    for (std::size_t i = 32 * group; i < 32 * group + 32; ++i)
      out[i] = scale * static_cast<float>(nibble_of(block + 16, i)) - minimum;
  }
}

/// 176 bytes: as Q4_K with a fifth bit of each element [32] before the nibbles: bit g of byte l is element 32 g + l's.
void dequantize_q5_k(const std::byte* block, float* out) {
  const float d = half_at(block), low = half_at(block + 2);
  for (std::size_t group = 0; group < 8; ++group) {
    const auto [s, m] = scale_and_minimum(block + 4, group);
    const float scale = d * s, minimum = low * m;
    for (std::size_t i = 32 * group; i < 32 * group + 32; ++i) {
      const unsigned high = (stored_byte(block + 16, i % 32) >> group) & 1U;
      out[i] = scale * static_cast<float>(nibble_of(block + 48, i) | (high << 4U)) - minimum;
    }
  }
}

/// 292 bytes: d (fp32), 256 signed bytes, sums of 16 of them that are not needed. w = d q.
void dequantize_q8_k(const std::byte* block, float* out) {
  float d;
  std::memcpy(&d, block, sizeof d);
  for (std::size_t i = 0; i < 256; ++i) out[i] = d * static_cast<float>(static_cast<signed char>(block[4 + i]));
}

/// The sixteen levels of IQ4_NL and IQ4_XS.
constexpr std::array<float, 16> kUnevenLevels{-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};

/// 18 bytes: d, nibbles as in Q4_0. w = d level(q).
void dequantize_iq4_nl(const std::byte* block, float* out) {
  const float d = half_at(block);
  for (std::size_t i = 0; i < kSmallBlock / 2; ++i) {
    const unsigned packed = stored_byte(block, 2 + i);
    out[i] = d * kUnevenLevels[packed & 15U];
    out[i + kSmallBlock / 2] = d * kUnevenLevels[packed >> 4U];
  }
}

/// 136 bytes: d, high pairs of 8 scales [2], their low nibbles [4], for each 32 elements nibbles as in Q4_0 [128].
/// w = (d (s - 32)) level(q).
void dequantize_iq4_xs(const std::byte* block, float* out) {
  const float d = half_at(block);
  const unsigned pairs = stored_byte(block, 2) | (stored_byte(block, 3) << 8U);
  for (std::size_t group = 0; group < 8; ++group) {
    const unsigned nibble = (stored_byte(block, 4 + group / 2) >> (group % 2 == 0 ? 0U : 4U)) & 15U;
    const unsigned high = (pairs >> (2 * group)) & 3U;
    const float scale = d * static_cast<float>(static_cast<int>(nibble | (high << 4U)) - 32);
    for (std::size_t i = 0; i < 16; ++i) {
      const unsigned packed = stored_byte(block, 8 + 16 * group + i);
      out[32 * group + i] = scale * kUnevenLevels[packed & 15U];
      out[32 * group + 16 + i] = scale * kUnevenLevels[packed >> 4U];
    }
  }
}

/// 17 bytes: exponent e, nibbles as in Q4_0, each an E2M1 number (OCP Microscaling Formats 1.0). w = 2^(e - 127) q; no
/// exponent stands for NaN, as ggml has it.
void dequantize_mxfp4(const std::byte* block, float* out) {
  constexpr std::array<float, 16> kTwice{0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};
  const float d = std::ldexp(1.0F, static_cast<int>(stored_byte(block, 0)) - 128);
  for (std::size_t i = 0; i < kSmallBlock / 2; ++i) {
    const unsigned packed = stored_byte(block, 1 + i);
    out[i] = d * kTwice[packed & 15U];
    out[i + kSmallBlock / 2] = d * kTwice[packed >> 4U];
  }
}

using BlockFunction = void (*)(const std::byte* block, float* out);

struct BlockFormat {
  GgmlType type;
  BlockFunction function;
};
constexpr auto kFormats = std::to_array<BlockFormat>({{GgmlType::q4_0, dequantize_q4_0},
                                                      {GgmlType::q4_1, dequantize_q4_1},
                                                      {GgmlType::q5_0, dequantize_q5_0},
                                                      {GgmlType::q5_1, dequantize_q5_1},
                                                      {GgmlType::q8_0, dequantize_q8_0},
                                                      {GgmlType::q2_k, dequantize_q2_k},
                                                      {GgmlType::q3_k, dequantize_q3_k},
                                                      {GgmlType::q4_k, dequantize_q4_k},
                                                      {GgmlType::q5_k, dequantize_q5_k},
                                                      {GgmlType::q6_k, dequantize_q6_k},
                                                      {GgmlType::q8_k, dequantize_q8_k},
                                                      {GgmlType::iq4_nl, dequantize_iq4_nl},
                                                      {GgmlType::iq4_xs, dequantize_iq4_xs},
                                                      {GgmlType::mxfp4, dequantize_mxfp4}});

BlockFunction function_of(GgmlType type) {
  for (const BlockFormat& format : kFormats)
    if (format.type == type) return format.function;
  return nullptr;
}

}  // namespace

bool is_quantized(GgmlType type) { return type != GgmlType::f32 && type != GgmlType::f16 && type != GgmlType::bf16; }

bool can_dequantize(GgmlType type) { return !is_quantized(type) || function_of(type) != nullptr; }

std::string readable_ggml_types() {
  std::string names = "F32, F16, BF16";
  for (const BlockFormat& format : kFormats) names += ", " + ggml_type_name(format.type);
  return names;
}

void dequantize(GgmlType type, std::span<const std::byte> bytes, std::span<float> out) {
  const auto n = static_cast<std::int64_t>(out.size());
  const std::int64_t elements = ggml_block_elements(type), block_bytes = ggml_block_bytes(type);
  VORONOI_REQUIRE(can_dequantize(type), ggml_type_name(type));
  VORONOI_REQUIRE(n % elements == 0 && static_cast<std::int64_t>(bytes.size()) == n / elements * block_bytes,
                  "size of the blocks");
  if (const BlockFunction function = function_of(type)) {
    for (std::int64_t block = 0; block < n / elements; ++block)
      function(bytes.data() + block * block_bytes, out.data() + block * elements);
    return;
  }
  const core::DType dtype = type == GgmlType::f32   ? core::DType::f32
                            : type == GgmlType::f16 ? core::DType::f16
                                                    : core::DType::bf16;
  core::convert_to_f32(dtype, bytes.data(), n, out.data());
}

}  // namespace voronoi::model
