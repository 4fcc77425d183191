// Fixed-width integers packed into 32-bit words, as VPTQ's checkpoint format and the uniform methods store them: value
// j of `bits` bits occupies bits [j*bits, (j+1)*bits) of a little-endian stream; bit i of the stream is bit i % 32 of
// word i / 32.
#pragma once

#include <bit>
#include <cstdint>
#include <span>

#include "core/types.h"

namespace voronoi::core {

inline constexpr int kMaxPackedBits = 32;

/// Bits of an index into n entries, n a power of two: log2 n; 0 when there are none.
constexpr int index_bits(std::int64_t n) {
  return n > 0 ? static_cast<int>(std::bit_width(static_cast<std::uint64_t>(n))) - 1 : 0;
}

/// Words that hold n values; n * bits must not overflow.
constexpr std::int64_t packed_words(std::int64_t n, int bits) { return ceil_div(n * bits, 32); }

/// Packs a row; bits 1..32, every value below 2^bits, words.size() == packed_words(values.size(), bits). Unused bits
/// become 0.
void pack_row(std::span<const std::uint32_t> values, int bits, std::span<std::uint32_t> words);

/// Reads values.size() values; words.size() >= packed_words(values.size(), bits).
void unpack_row(std::span<const std::uint32_t> words, int bits, std::span<std::uint32_t> values);

}  // namespace voronoi::core
