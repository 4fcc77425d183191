// Block formats of GGUF (ggml-common.h of ggml-org/ggml): little-endian, scales as halves.
#include <array>
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

constexpr std::size_t kSmallBlock = 32;

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

using BlockFunction = void (*)(const std::byte* block, float* out);

struct BlockFormat {
  GgmlType type;
  BlockFunction function;
};
constexpr std::array<BlockFormat, 4> kFormats{{{GgmlType::q4_0, dequantize_q4_0},
                                               {GgmlType::q4_1, dequantize_q4_1},
                                               {GgmlType::q8_0, dequantize_q8_0},
                                               {GgmlType::q6_k, dequantize_q6_k}}};

BlockFunction function_of(GgmlType type) {
  for (const BlockFormat& format : kFormats)
    if (format.type == type) return format.function;
  return nullptr;
}

}  // namespace

bool is_quantized(GgmlType type) { return type != GgmlType::f32 && type != GgmlType::f16 && type != GgmlType::bf16; }

bool can_dequantize(GgmlType type) { return !is_quantized(type) || function_of(type) != nullptr; }

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
