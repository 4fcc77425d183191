#include "quant/gptvq/book_basis.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "core/index.h"
#include "quant/baselines/uniform_method.h"
#include "quant/cost.h"
#include "quant/gptvq/gptvq_method.h"
#include "quant/layers.h"
#include "quant/method.h"

namespace voronoi::quant {
namespace {

using core::SoloTeam;

QuantParameters eight_centroids() {
  QuantParameters p;
  p.method = "gptvq";
  p.get<UniformParameters>().bits = 3;
  p.get<GptvqParameters>().vector_columns = 1;
  p.get<GptvqParameters>().group_weights = 4 * 64;
  return p;
}

/// Codes of 6 rows in 3 groups and 2 strips of 4 columns; book b is a_b (1, 2, 3, 4) + c_b (0, 1, 0, -1), stored with
/// its centroids turned round by b.
GptvqCodes codes_of_two_shapes() {
  format::GptvqExtents e;
  e.out_features = 6;
  e.in_features = 8;
  e.centroids = 4;
  e.group_rows = 2;
  e.group_columns = 4;
  e.codebook_bits = 16;
  GptvqCodes codes(e, {0, 3, 0, 6});
  for (std::int64_t book = 0; book < 6; ++book) {
    const auto a = static_cast<float>(book + 1), c = static_cast<float>(book % 3) / 4;
    const std::vector<float> sorted{a, 2 * a + c, 3 * a, 4 * a - c};
    std::vector<float> turned;
    for (std::int64_t i = 0; i < 4; ++i) turned.push_back(sorted[core::index((i + book) % 4)]);
    codes.store(book, turned);
  }
  for (std::size_t i = 0; i < codes.indices.size(); ++i) codes.indices[i] = static_cast<std::uint16_t>(i * 7 % 4);
  return codes;
}

std::vector<float> looked_up(const GptvqCodes& codes) {
  std::vector<float> values;
  for (std::int64_t row = 0; row < 6; ++row)
    for (std::int64_t c = 0; c < 8; ++c)
      values.push_back(codes.values(codes.book(row / 2, c / 4))[codes.indices[core::index(row * 8 + c)]]);
  return values;
}

TEST(BookBasis, CodebooksOfFewShapesAreCompressedWithoutLoss) {
  for (const std::int64_t bits : {8, 16})
    for (const bool published : {false, true}) {
      SoloTeam team;
      GptvqCodes codes = codes_of_two_shapes();
      const std::vector<float> whole = looked_up(codes);
      compress_books(team, 2, bits, published, codes);
      EXPECT_EQ(codes.rank(), 2);
      EXPECT_EQ(codes.codebook.size() + codes.codebook8.size(), 12U);
      const std::vector<float> compressed = looked_up(codes);
      // Factors of the larger shape are up to 24; a byte's step is 24 / 127.
      for (std::size_t i = 0; i < whole.size(); ++i)
        EXPECT_NEAR(compressed[i], whole[i], bits == 16 ? 0.03 : 0.2) << bits << " " << i;
      // In rising order.
      for (std::int64_t book = 0; book < 6; ++book)
        EXPECT_TRUE(std::is_sorted(codes.values(book).begin(), codes.values(book).end()));
    }
}

TEST(BookBasis, OneShapeIsTheMeanOfWhatIsThere) {
  SoloTeam team;
  GptvqCodes codes = codes_of_two_shapes();
  const std::vector<float> whole = looked_up(codes);
  compress_books(team, 1, 16, true, codes);
  const std::vector<float> compressed = looked_up(codes);
  double lost = 0, all = 0;
  for (std::size_t i = 0; i < whole.size(); ++i) {
    lost += std::pow(static_cast<double>(compressed[i] - whole[i]), 2);
    all += std::pow(static_cast<double>(whole[i]), 2);
  }
  // The second shape's c is at most 0.5 beside a of 3 and 6.
  EXPECT_LT(lost, 0.004 * all);
  EXPECT_GT(lost, 1e-5 * all);
}

TEST(BookBasis, FactorsAreFittedToTheTrueError) {
  backend::Context context(backend::Device::cpu, 2);
  SoloTeam team;
  const test::Layer layer = test::make_layer(context, 96, 64, 9, true);
  QuantParameters p = eight_centroids();
  auto& own = p.get<GptvqParameters>();
  const QuantResult whole = gptvq_method().quantize(context, team, layer.input(), p);
  own.codebook_rank = 4;
  const QuantResult fitted = gptvq_method().quantize(context, team, layer.input(), p);
  own.codebook_update = false;
  const QuantResult before = gptvq_method().quantize(context, team, layer.input(), p);
  EXPECT_LT(fitted.relative_error, before.relative_error);
  EXPECT_LT(fitted.relative_error, 1.5 * whole.relative_error);
  EXPECT_LT(stored_bits(fitted.encoding), stored_bits(whole.encoding));
  EXPECT_EQ(stored_bits(fitted.encoding), planned_bits(p, 96, 64).total());
}

}  // namespace
}  // namespace voronoi::quant
