// The codebooks of QuIP# (Tseng, Chee, Sun, Kuleshov, De Sa: QuIP#: Even Better LLM Quantization with Hadamard
// Incoherence and Lattice Codebooks, ICML 2024, arXiv 2402.04396), made at compile time. Vectors of 8 halves of whole
// numbers, one a word of eight nibbles: 2 v + 8 of coordinate i in nibble nibble_of(i).
#pragma once

#include <cstdint>

namespace voronoi::kernels::e8p {

inline constexpr int kDim = 8, kEntries = 256;
/// A plain array: device code may read it.
struct Words {
  std::uint32_t at[kEntries];
};

/// Nibble of coordinate i in a word, and bit of its sign in an E8P code.
constexpr int nibble_of(int i) { return (i % 2) * 4 + i / 2; }

/// Doubled coordinates as a word.
constexpr std::uint32_t word_of(const int (&doubled)[kDim]) {
  std::uint32_t word = 0;
  for (int i = 0; i < kDim; ++i) word |= static_cast<std::uint32_t>((doubled[i] + 8) & 15) << (4 * nibble_of(i));
  return word;
}
/// Coordinate i of a word, doubled.
constexpr int doubled_of(std::uint32_t word, int i) { return static_cast<int>(word >> (4 * nibble_of(i)) & 15U) - 8; }

namespace detail {

constexpr int kOfNorm10 = 227, kOfNorm12 = 29;

/// The next vector over low, low + step .. high, the last coordinate running fastest; false behind the last one.
constexpr bool advance(int (&v)[kDim], int low, int high, int step) {
  for (int i = kDim - 1; i >= 0; --i) {
    v[i] += step;
    if (v[i] <= high) return true;
    v[i] = low;
  }
  return false;
}
constexpr int sum_of(const int (&v)[kDim]) {
  int sum = 0;
  for (const int value : v) sum += value;
  return sum;
}
constexpr int norm2_of(const int (&v)[kDim]) {
  int sum = 0;
  for (const int value : v) sum += value * value;
  return sum;
}
constexpr void set_all(int (&v)[kDim], int value) {
  for (int& one : v) one = value;
}

/// Magnitudes over {1/2, 3/2, 5/2} of squared norm up to 10 in lexicographic order, then 29 of squared norm 12 in the
/// order of the published table; where the sum is odd coordinate 7 is negated.
constexpr Words make_e8p() {
  // Places of 1/2 among 3/2.
  constexpr char kHalves[] = "123023013012367357347356346345267257247256246245167157147156146045067057047056046014237";
  Words words{};
  int n = 0, v[kDim] = {};
  const auto add = [&words, &n](const int(&magnitudes)[kDim]) {
    int signed_ones[kDim] = {};
    for (int i = 0; i < kDim; ++i) signed_ones[i] = magnitudes[i];
    if (sum_of(magnitudes) / 2 % 2 != 0) signed_ones[kDim - 1] = -signed_ones[kDim - 1];
    words.at[n++] = word_of(signed_ones);
  };
  set_all(v, 1);
  do {
    if (norm2_of(v) <= 4 * 10) add(v);
  } while (advance(v, 1, 5, 2));
  for (int k = 0; k < kOfNorm12; ++k) {
    set_all(v, 3);
    for (int i = 0; i < 3; ++i) v[kHalves[3 * k + i] - '0'] = 1;
    add(v);
  }
  return words;
}

/// Points of E8 of squared norm up to 2: whole ones, then halves, each in lexicographic order; then 2 e_i for all i and
/// -2 e_i for all but the last.
constexpr Words make_e8() {
  Words words{};
  int n = 0, v[kDim] = {};
  set_all(v, -2);
  do {
    if (norm2_of(v) <= 4 * 2 && sum_of(v) / 2 % 2 == 0) words.at[n++] = word_of(v);
  } while (advance(v, -2, 2, 2));
  set_all(v, -1);
  do {
    if (sum_of(v) / 2 % 2 == 0) words.at[n++] = word_of(v);
  } while (advance(v, -1, 1, 2));
  for (int sign = 1; sign >= -1; sign -= 2)
    for (int i = 0; i < kDim && n < kEntries; ++i) {
      set_all(v, 0);
      v[i] = 4 * sign;
      words.at[n++] = word_of(v);
    }
  return words;
}

}  // namespace detail

/// E8P: entries of 2^16 codewords. Code c is entry c >> 8 with signs s = c & 255, bit nibble_of(i) negating coordinate
/// i: where s has an odd number of bits, bit 0 is turned and 1/4 taken off every coordinate, else 1/4 is added.
inline constexpr Words kE8p = detail::make_e8p();
/// E81B, the codebook of residuals at 3 bits: a code is the entry.
inline constexpr Words kE8 = detail::make_e8();

/// What residuals are multiplied by before they are coded, and by what their codewords are multiplied.
inline constexpr float kE8Residual = 2.04F, kE8pResidual = 3.45F;
inline constexpr float kE8Step = 1.0F / kE8Residual, kE8pStep = 1.0F / kE8pResidual;

}  // namespace voronoi::kernels::e8p
