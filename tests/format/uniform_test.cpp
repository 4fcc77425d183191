#include "format/uniform.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <memory>
#include <vector>

#include "core/random.h"
#include "support/random_packed.h"
#include "support/typed_encoding.h"

namespace voronoi::format {
namespace {

std::vector<float> inputs(std::int64_t n) {
  const core::CounterRandom random(3, 1);
  std::vector<float> x(static_cast<std::size_t>(n));
  for (std::size_t i = 0; i < x.size(); ++i) x[i] = static_cast<float>(random.uniform(i) - 0.5);
  return x;
}

TEST(Uniform, EveryWidthDecodesToScaleTimesCodeLessZero) {
  // 70 columns: two runs of 32 and a tail.
  for (int bits = 1; bits <= 16; ++bits) {
    const Encoding encoding = test::random_packed(test::UniformShape{3, 70, bits, 16, true});
    const UniformEncoding e = test::uniform_of(encoding);
    const std::vector<float> weight = test::decoded(encoding);
    std::vector<std::uint32_t> codes(70), zeros(5);
    const auto row_of = [bits](const std::vector<std::uint32_t>& words, std::int64_t row, std::int64_t n) {
      const auto size = static_cast<std::size_t>(core::packed_words(n, bits));
      return std::span(words).subspan(static_cast<std::size_t>(row) * size, size);
    };
    for (std::int64_t row = 0; row < 3; ++row) {
      core::unpack_row(row_of(e.codes, row, 70), bits, codes);
      core::unpack_row(row_of(e.zeros, row, 5), bits, zeros);
      for (std::size_t c = 0; c < 70; ++c) {
        const float scale = core::half_to_float(e.scale[static_cast<std::size_t>(row) * 5 + c / 16]);
        const int steps = static_cast<int>(codes[c]) - static_cast<int>(zeros[c / 16]);
        ASSERT_EQ(weight[static_cast<std::size_t>(row) * 70 + e.perm[c]], scale * static_cast<float>(steps))
            << bits << " bits, row " << row << ", column " << c;
      }
    }
  }
}

TEST(Uniform, TheProductIsThatOfTheDecodedWeightAtAnyNumberOfThreads) {
  const Encoding encoding = test::random_packed(test::UniformShape{37, 131, 3, 24, true});
  const std::vector<float> weight = test::decoded(encoding), x = inputs(std::int64_t{5} * 131);
  std::vector<float> first;
  for (const int threads : {1, 3}) {
    backend::Context context(backend::Device::cpu, threads);
    const std::unique_ptr<PackedMatrix> matrix = encoding.format->upload(context, encoding);
    ASSERT_GE(matrix->max_tokens(), 5);
    std::vector<float> out(std::size_t{5} * 37, 0.5F);
    matrix->multiply(context, 5, x.data(), true, out.data());
    if (first.empty()) first = out;
    EXPECT_EQ(out, first);
    for (std::size_t t = 0; t < 5; ++t)
      for (std::size_t row = 0; row < 37; ++row) {
        double sum = 0.5;
        for (std::size_t c = 0; c < 131; ++c)
          sum += static_cast<double>(weight[row * 131 + c]) * static_cast<double>(x[t * 131 + c]);
        ASSERT_NEAR(static_cast<double>(out[t * 37 + row]), sum, 1e-5) << t << ", " << row;
      }
  }
}

TEST(Uniform, StaysPackedInDeviceMemory) {
  const Encoding encoding = test::random_packed(test::UniformShape{64, 512, 2, 64});
  backend::Context context(backend::Device::cpu, 1);
  EXPECT_EQ(8 * encoding.format->upload(context, encoding)->size_bytes(), stored_bits(encoding));
  EXPECT_LT(stored_bits(encoding), std::int64_t{64} * 512 * 5 / 2);
}

TEST(Uniform, NoDecodedWeightIsAboveTheBound) {
  const Encoding encoding = test::random_packed(test::UniformShape{8, 96, 4, 32});
  float largest = 0;
  for (const float value : test::decoded(encoding)) largest = std::max(largest, std::fabs(value));
  EXPECT_LE(static_cast<double>(largest), encoding.format->decoded_bound(encoding));
}

}  // namespace
}  // namespace voronoi::format
