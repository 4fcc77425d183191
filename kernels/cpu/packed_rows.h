// What the CPU twins of packed linears do to whole rows: in vectors as long as the processor has them, with the same
// bits on each.
#pragma once

#include <cstdint>

namespace voronoi::kernels::packed {

/// Value j of a row of packed ones; bits 1..32.
inline std::uint32_t value_at(const std::uint32_t* words, std::int64_t j, int bits) {
  const std::int64_t first = j * bits, word = first / 32;
  const int shift = static_cast<int>(first % 32);
  std::uint64_t window = words[word];
  if (shift + bits > 32) window |= static_cast<std::uint64_t>(words[word + 1]) << 32;
  return static_cast<std::uint32_t>(window >> shift & ((std::uint64_t{1} << bits) - 1));
}

/// codes[i] = value i of a row of n packed ones; bits 1..16, words [core::packed_words(n, bits)].
void unpack(const std::uint32_t* words, int bits, std::int64_t n, std::int32_t* codes);

/// values[c] = scales[g] * (codes[c] - zeros[g]), g = c / group_size.
void uniform_row(std::int64_t n, std::int64_t group_size, const std::int32_t* codes, const std::int32_t* zeros,
                 const float* scales, float* values);

/// values[c] = levels[codes[c]] times scales[2 g] where that is not negative, else times scales[2 g + 1].
void signed_levels_row(std::int64_t n, std::int64_t group_size, const std::int32_t* codes, const float* levels,
                       const float* scales, float* values);

/// Sixteen running sums of rounded products, added in a fixed tree.
float dot(std::int64_t n, const float* a, const float* b);

}  // namespace voronoi::kernels::packed
