#include "kernels/e8p.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <bit>
#include <random>
#include <set>
#include <vector>

#include "kernels/kernels.h"

namespace voronoi::kernels {
namespace {

using Codeword = std::array<float, 8>;

Codeword e8p_of(int code) {
  Codeword values;
  decode_e8p(static_cast<std::uint16_t>(code), values.data());
  return values;
}

Codeword e8_of(int code) {
  Codeword values;
  decode_e8(static_cast<std::uint8_t>(code), values.data());
  return values;
}

TEST(E8p, TheTableIsThePublishedOne) {
  EXPECT_EQ(e8p::kE8p.at[0], 0x99999999U);
  EXPECT_EQ(e8p::kE8p.at[1], 0x59999999U);
  EXPECT_EQ(e8p::kE8p.at[2], 0xD9999999U);
  EXPECT_EQ(e8p::kE8p.at[226], 0x799B999DU);
  EXPECT_EQ(e8p::kE8p.at[227], 0x5B99BB9BU);
  EXPECT_EQ(e8p::kE8p.at[255], 0x7B9BBB9BU);
  std::uint32_t crc = 0xFFFFFFFF;  // CRC-32 of the words' bytes, the lowest first
  for (const std::uint32_t word : e8p::kE8p.at)
    for (int byte = 0; byte < 4; ++byte) {
      crc ^= word >> (8 * byte) & 0xFFU;
      for (int bit = 0; bit < 8; ++bit) crc = crc >> 1 ^ (crc % 2 != 0 ? 0xEDB88320U : 0U);
    }
  EXPECT_EQ(~crc, 0xB1A1A044U);
}

TEST(E8p, CodesDecodeAsPublished) {
  EXPECT_EQ(e8p_of(0x0000), (Codeword{.75, .75, .75, .75, .75, .75, .75, .75}));
  EXPECT_EQ(e8p_of(0x0001), (Codeword{.25, .25, .25, .25, .25, .25, .25, .25}));
  EXPECT_EQ(e8p_of(0x1234), (Codeword{-.75, -.75, .25, -.75, -1.75, .25, .25, 1.25}));
  EXPECT_EQ(e8p_of(0xFFFF), (Codeword{-1.25, -1.25, -.25, -.25, -1.25, -1.25, -1.25, .75}));
  std::set<Codeword> all;
  double squares = 0;
  for (int code = 0; code < 65536; ++code) {
    const Codeword word = e8p_of(code);
    all.insert(word);
    for (const float value : word) squares += static_cast<double>(value) * static_cast<double>(value);
  }
  EXPECT_EQ(all.size(), 65536U);
  EXPECT_NEAR(squares / 65536 / 8, 1.19629, 5e-6);
}

TEST(E8p, TheResidualsAreShortPointsOfE8) {
  std::set<Codeword> all;
  for (int code = 0; code < 256; ++code) {
    const Codeword word = e8_of(code);
    all.insert(word);
    float sum = 0, norm2 = 0;
    for (const float value : word) {
      sum += value;
      norm2 += value * value;
    }
    EXPECT_EQ(static_cast<int>(sum) % 2, 0) << code;
    EXPECT_EQ(norm2, code == 56 ? 0 : code < 241 ? 2 : 4) << code;
  }
  EXPECT_EQ(all.size(), 256U);
  EXPECT_EQ(e8_of(0), (Codeword{-1, -1, 0, 0, 0, 0, 0, 0}));
  EXPECT_EQ(e8_of(113), (Codeword{-.5, -.5, -.5, -.5, -.5, -.5, -.5, -.5}));
  EXPECT_EQ(e8_of(241), (Codeword{2, 0, 0, 0, 0, 0, 0, 0}));
  EXPECT_EQ(e8_of(255), (Codeword{0, 0, 0, 0, 0, 0, -2, 0}));
}

float distance2(const float* x, std::size_t stride, const Codeword& word, std::size_t dim = 8) {
  float sum = 0;
  for (std::size_t i = 0; i < dim; ++i) sum += (x[i * stride] - word[i]) * (x[i * stride] - word[i]);
  return sum;
}

class E8pSearch : public ::testing::Test {
 protected:
  static constexpr std::size_t kN = 32;
  std::vector<float> points(float deviation, std::uint32_t seed) {
    std::mt19937 engine(seed);
    std::normal_distribution<float> normal(0, deviation);
    std::vector<float> x(8 * kN);
    for (float& value : x) value = normal(engine);
    return x;
  }
  /// The least over the whole codebook.
  template <class Decode>
  static float least(const float* x, int n_codes, const Decode& decode, std::size_t dim = 8) {
    float best = 1e30F;
    for (int code = 0; code < n_codes; ++code) best = std::min(best, distance2(x, kN, decode(code), dim));
    return best;
  }
};

TEST_F(E8pSearch, FindsTheNearestOfAll) {
  std::vector<float> values(8 * kN);
  std::vector<std::uint16_t> codes(kN);
  std::uint32_t seed = 1;
  for (const float deviation : {0.3F, 0.9F, 1.1F, 2.5F}) {
    const std::vector<float> x = points(deviation, ++seed);
    nearest_e8p(kN, kN, x.data(), values.data(), codes.data());
    for (std::size_t v = 0; v < kN; ++v) {
      const Codeword word = e8p_of(codes[v]);
      for (std::size_t i = 0; i < 8; ++i) ASSERT_EQ(values[i * kN + v], word[i]);
      const float best = least(&x[v], 65536, e8p_of);
      EXPECT_NEAR(distance2(&x[v], kN, word), best, 1e-5F * best) << v;
    }
    nearest_e8(kN, kN, x.data(), values.data(), codes.data());
    for (std::size_t v = 0; v < kN; ++v) {
      const Codeword word = e8_of(codes[v]);
      for (std::size_t i = 0; i < 8; ++i) ASSERT_EQ(values[i * kN + v], word[i]);
      const float best = least(&x[v], 256, e8_of);
      EXPECT_NEAR(distance2(&x[v], kN, word), best, 1e-5F * best) << v;
    }
  }
}

TEST_F(E8pSearch, FindsEveryCodewordWhereItStands) {
  constexpr std::size_t kAll = 65536;
  std::vector<float> x(8 * kAll), values(x.size());
  std::vector<std::uint16_t> codes(kAll);
  for (std::size_t code = 0; code < kAll; ++code)
    for (std::size_t i = 0; i < 8; ++i) x[i * kAll + code] = e8p_of(static_cast<int>(code))[i];
  nearest_e8p(kAll, kAll, x.data(), values.data(), codes.data());
  for (std::size_t code = 0; code < kAll; ++code) ASSERT_EQ(codes[code], code);
  EXPECT_EQ(values, x);
}

TEST_F(E8pSearch, FindsTheNearestByTheCoordinatesThatCount) {
  const std::vector<float> x = points(1.2F, 9);
  for (const int dim : {1, 3, 7})
    for (const std::size_t v : {0U, 5U, 9U}) {
      Codeword point{};
      for (std::size_t i = 0; i < 8; ++i) point[i] = x[i * kN + v];
      const auto n = static_cast<std::size_t>(dim);
      const float of_e8p = distance2(&x[v], kN, e8p_of(nearest_of_part(false, dim, point.data())), n),
                  of_e8 = distance2(&x[v], kN, e8_of(nearest_of_part(true, dim, point.data())), n);
      EXPECT_NEAR(of_e8p, least(&x[v], 65536, e8p_of, n), 1e-6F);
      EXPECT_NEAR(of_e8, least(&x[v], 256, e8_of, n), 1e-6F);
    }
}

}  // namespace
}  // namespace voronoi::kernels
