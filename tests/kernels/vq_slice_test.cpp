// CPU twins of the slice's entry points: by hand, and the laws that tie them together. The loops are compared with the
// reference's own in tests/quant/second_order_test.cpp.
#include "kernels/vq_slice.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <random>
#include <vector>

#include "kernels/kernels.h"

namespace voronoi::kernels {
namespace {

using testing::ElementsAre;

std::size_t at(std::int64_t i) { return static_cast<std::size_t>(i); }

/// A slice with everything: two groups, a residual, outliers of another vector length, a tail.
struct Fixture {
  core::ThreadPool pool{2};
  Exec exec{&pool, nullptr};
  std::vector<std::int64_t> part_begin{0, 12, 24, 29};
  VqSlice slice;
  std::vector<float> main, residual, outlier, scale, bias;
  std::vector<std::int32_t> codes, residual_codes;
  std::mt19937 engine{5};

  Fixture() {
    slice.in_features = 10;
    slice.rows = 29;
    slice.v = 4;
    slice.k = 8;
    slice.kr = 4;
    slice.groups = 2;
    slice.group_size = 4;
    slice.outlier_size = 2;
    slice.v0 = 3;
    slice.k0 = 5;
    slice.width = 32;
    slice.code_stride = 10;
    slice.n_parts = 3;
    slice.part_begin = part_begin.data();
    main = normal(slice.groups * slice.k * slice.v);
    residual = normal(slice.groups * slice.kr * slice.v);
    outlier = normal(slice.k0 * slice.v0);
    scale = normal(slice.in_features);
    for (float& value : scale) value = 0.5F + std::fabs(value);
    bias = normal(slice.in_features);
    for (std::int64_t p = 0; p < slice.in_features; ++p)
      for (std::int64_t i = 0; i < slice.code_stride; ++i) {
        codes.push_back(static_cast<std::int32_t>(engine() % (slice.is_outlier(p) ? 5U : 8U)));
        residual_codes.push_back(static_cast<std::int32_t>(engine() % 4U));
      }
  }
  std::vector<float> normal(std::int64_t n) {
    std::normal_distribution<float> distribution;
    std::vector<float> values(at(n));
    for (float& value : values) value = distribution(engine);
    return values;
  }
  VqBooks books() const { return {main.data(), residual.data(), outlier.data(), scale.data(), bias.data()}; }
  VqCodes code_view() { return {codes.data(), residual_codes.data()}; }
  float decoded(std::int64_t p, std::int64_t r) const {
    const std::int64_t v = slice.is_outlier(p) ? slice.v0 : slice.v;
    const std::int64_t code = codes[at(p * slice.code_stride + r / v)];
    if (slice.is_outlier(p)) return outlier[at(code * v + r % v)] * scale[at(p)] + bias[at(p)];
    const std::int64_t group = slice.group_of(p), second = residual_codes[at(p * slice.code_stride + r / v)];
    const float sum =
        main[at((group * slice.k + code) * v + r % v)] + residual[at((group * slice.kr + second) * v + r % v)];
    return sum * scale[at(p)] + bias[at(p)];
  }
};

TEST(VqSlice, TransposePermutesAndPads) {
  core::ThreadPool pool(1);
  const Exec exec{&pool, nullptr};
  const std::vector<std::int64_t> part_begin{0, 2, 3};
  VqSlice slice;
  slice.in_features = 2;
  slice.rows = 3;
  slice.v = 2;
  slice.width = 4;
  slice.code_stride = 2;
  slice.n_parts = 2;
  slice.part_begin = part_begin.data();
  const std::vector<float> weight{1, 2, 3, 4, 5, 6};
  const std::vector<std::int32_t> perm{1, 0};
  std::vector<float> matrix(8, 9.0F);
  cpu().slice.transpose(exec, slice, weight.data(), perm.data(), matrix.data());
  EXPECT_THAT(matrix, ElementsAre(2, 4, 6, 0, 1, 3, 5, 0));
}

TEST(VqSlice, DecodeFollowsItsDefinition) {
  Fixture f;
  std::vector<float> matrix(at(f.slice.in_features * f.slice.width), 9.0F);
  cpu().slice.decode(f.exec, f.slice, f.books(), f.code_view(), matrix.data());
  for (std::int64_t p = 0; p < f.slice.in_features; ++p)
    for (std::int64_t r = 0; r < f.slice.width; ++r)
      ASSERT_EQ(matrix[at(p * f.slice.width + r)], r < f.slice.rows ? f.decoded(p, r) : 0.0F) << p << ", " << r;
}

TEST(VqSlice, TrainingTakesEveryStridethWholeVectorOfEachPart) {
  Fixture f;
  const std::vector<float> matrix = f.normal(f.slice.in_features * f.slice.width), column_weight{1, 2, 4};
  // Parts of 12, 12 and 5 rows: 3, 3 and 1 whole vectors of 4 in each of three columns; every second one counted.
  const TrainingRange range{3, 3, 4, 2};
  std::vector<float> points(at(12 * 4)), weights(12);
  cpu().slice.gather_training(f.exec, f.slice, range, matrix.data(), f.scale.data(), f.bias.data(),
                              column_weight.data(), points.data(), weights.data());
  const std::vector<std::pair<int, int>> expected{{3, 0},  {3, 8},  {4, 4},  {5, 0},  {5, 8},  {3, 12},
                                                  {3, 20}, {4, 16}, {5, 12}, {5, 20}, {3, 24}, {5, 24}};
  for (std::size_t i = 0; i < expected.size(); ++i) {
    const auto [p, r] = expected[i];
    EXPECT_EQ(weights[i], column_weight[at(p - 3)]) << i;
    for (std::int64_t d = 0; d < 4; ++d)
      EXPECT_EQ(points[i * 4 + at(d)],
                (matrix[at(p * f.slice.width + r + d)] - f.bias[at(p)]) * (1.0F / f.scale[at(p)]))
          << i;
  }
}

TEST(VqSlice, CollectIsTheTransposeOfDecode) {
  Fixture f;
  const std::int64_t size = f.slice.in_features * f.slice.width;
  std::vector<float> g = f.normal(size), none(at(f.slice.in_features)), matrix(at(size));
  for (std::int64_t p = 0; p < f.slice.in_features; ++p)
    for (std::int64_t r = f.slice.rows; r < f.slice.width; ++r) g[at(p * f.slice.width + r)] = 0;
  const auto dot_with_g = [&](const VqBooks& books) {
    cpu().slice.decode(f.exec, f.slice, books, f.code_view(), matrix.data());
    double sum = 0;
    cpu().slice.dots(f.exec, f.slice, matrix.data(), g.data(), true, &sum);
    return sum;
  };
  VqBooks books = f.books();
  books.bias = none.data();
  std::vector<double> sums(2 * 8 * 4 + 2 * 4 * 4 + 5 * 3);
  cpu().slice.collect_books(f.exec, f.slice, f.code_view(), f.scale.data(), g.data(), nullptr, true, sums.data());
  double expected = 0;
  const double* sum = sums.data();
  for (const std::vector<float>* book : {&f.main, &f.residual, &f.outlier})
    for (const float value : *book) expected += static_cast<double>(value) * *sum++;
  EXPECT_NEAR(dot_with_g(books), expected, 1e-4);

  books = f.books();
  std::vector<double> columns(20);
  cpu().slice.collect_columns(f.exec, f.slice, books, f.code_view(), g.data(), nullptr, true, columns.data());
  expected = 0;
  for (std::size_t p = 0; p < 10; ++p)
    expected += static_cast<double>(f.scale[p]) * columns[p] + static_cast<double>(f.bias[p]) * columns[10 + p];
  EXPECT_NEAR(dot_with_g(books), expected, 1e-4);
}

TEST(VqSlice, DiagonalsAreTheSquaredColumnsOfDecode) {
  Fixture f;
  std::vector<float> diagonal = f.normal(f.slice.in_features);
  for (float& value : diagonal) value = std::fabs(value);
  std::vector<double> sums(2 * 8 * 4 + 2 * 4 * 4 + 5 * 3), expected(sums.size()), columns(20), expected_columns(20);
  cpu().slice.collect_books(f.exec, f.slice, f.code_view(), f.scale.data(), nullptr, diagonal.data(), true,
                            sums.data());
  cpu().slice.collect_columns(f.exec, f.slice, f.books(), f.code_view(), nullptr, diagonal.data(), true,
                              columns.data());
  for (std::int64_t p = 0; p < 10; ++p)
    for (std::int64_t r = 0; r < f.slice.rows; ++r) {
      const double h = static_cast<double>(diagonal[at(p)]), s = static_cast<double>(f.scale[at(p)]);
      const double u = (static_cast<double>(f.decoded(p, r)) - static_cast<double>(f.bias[at(p)])) / s;
      expected_columns[at(p)] += h * u * u;
      expected_columns[at(10 + p)] += h;
      const std::int64_t v = f.slice.is_outlier(p) ? 3 : 4, code = f.codes[at(p * 10 + r / v)];
      if (f.slice.is_outlier(p)) {
        expected[at(96 + code * 3 + r % 3)] += h * s * s;
      } else {
        expected[at((f.slice.group_of(p) * 8 + code) * 4 + r % 4)] += h * s * s;
        expected[at(64 + (f.slice.group_of(p) * 4 + f.residual_codes[at(p * 10 + r / v)]) * 4 + r % 4)] += h * s * s;
      }
    }
  EXPECT_THAT(sums, testing::Pointwise(testing::DoubleNear(1e-6), expected));
  EXPECT_THAT(columns, testing::Pointwise(testing::DoubleNear(1e-4), expected_columns));
}

TEST(VqSlice, CombinedSumsAreThePartsInOrder) {
  Fixture f;
  const std::int64_t size = f.slice.in_features * f.slice.width;
  const std::vector<float> a = f.normal(size), b = f.normal(size);
  std::vector<double> parts(3), whole(1);
  cpu().slice.dots(f.exec, f.slice, a.data(), b.data(), false, parts.data());
  cpu().slice.dots(f.exec, f.slice, a.data(), b.data(), true, whole.data());
  EXPECT_EQ(whole[0], parts[0] + parts[1] + parts[2]);
  double first = 0;
  for (std::int64_t p = 0; p < f.slice.in_features; ++p)
    for (std::int64_t r = 0; r < 12; ++r)
      first += static_cast<double>(a[at(p * f.slice.width + r)]) * static_cast<double>(b[at(p * f.slice.width + r)]);
  EXPECT_EQ(parts[0], first);
  f.slice.n_parts = f.slice.rows = f.slice.width = f.slice.code_stride = 0;
  whole[0] = 7;
  cpu().slice.dots(f.exec, f.slice, nullptr, nullptr, true, whole.data());
  EXPECT_EQ(whole[0], 0);
}

/// A tall slice with everything, so that loops take it in several strips, the last of odd height.
struct TallFixture : Fixture {
  std::vector<float> matrix, factor;

  TallFixture() {
    part_begin = {0, 600, 1111};
    slice.rows = 1111;
    slice.width = 1113;
    slice.code_stride = 371;
    slice.n_parts = 2;
    slice.part_begin = part_begin.data();
    slice.group_size = 70;
    slice.in_features = 142;
    scale = normal(slice.in_features);
    for (float& value : scale) value = 0.5F + std::fabs(value);
    bias = normal(slice.in_features);
    matrix = normal(slice.in_features * slice.width);
    for (std::int64_t p = 0; p < slice.in_features; ++p)
      std::fill(matrix.begin() + p * slice.width + slice.rows, matrix.begin() + (p + 1) * slice.width, 0.0F);
    factor = normal(slice.in_features * slice.in_features);
    for (float& value : factor) value *= 0.05F;
    for (std::int64_t i = 0; i < slice.in_features; ++i) {
      for (std::int64_t j = 0; j < i; ++j) factor[at(i * slice.in_features + j)] = 0;
      factor[at(i * (slice.in_features + 1))] = 2;
    }
  }
  struct Coded {
    std::vector<std::int32_t> codes, residual_codes;
    std::vector<float> quantized, left;
    bool operator==(const Coded&) const = default;
  };
  Coded coded() const {
    const auto n_codes = at(slice.in_features * slice.code_stride);
    return {std::vector<std::int32_t>(n_codes), std::vector<std::int32_t>(n_codes), std::vector<float>(matrix.size()),
            matrix};
  }
  Coded run_loop(int n_threads, const ColumnLoopOptions& options, bool with_residual = true) const {
    core::ThreadPool threads(n_threads);
    Coded result = coded();
    VqBooks of = books();
    if (!with_residual) of.residual = nullptr;
    cpu().slice.column_loop({&threads, nullptr}, slice, of, options, factor.data(), result.left.data(),
                            {result.codes.data(), with_residual ? result.residual_codes.data() : nullptr},
                            result.quantized.data());
    return result;
  }
};

TEST(VqSlice, LoopsChooseWhatTheSearchesFind) {
  TallFixture f;
  const VqSlice& s = f.slice;
  for (const bool padding : {false, true}) {
    const TallFixture::Coded loop = f.run_loop(2, {.feedback = false, .padding_counts = padding}, false);
    for (std::int64_t p = 0; p < s.in_features; ++p) {
      const bool outlier = s.is_outlier(p);
      const std::int64_t v = outlier ? s.v0 : s.v, k = outlier ? s.k0 : s.k, n = (s.rows + v - 1) / v;
      std::vector<float> points(at(n * v));
      for (std::int64_t r = 0; r < std::min(n * v, s.width); ++r)
        points[at(r)] = (f.matrix[at(p * s.width + r)] - f.bias[at(p)]) * (1.0F / f.scale[at(p)]);
      std::vector<std::int32_t> valid(at(n), static_cast<std::int32_t>(v)), expected(at(n));
      if (!padding && s.rows % v != 0) valid.back() = static_cast<std::int32_t>(s.rows % v);
      cpu().vq.nearest(f.exec, n, v, points.data(), k,
                       outlier ? f.outlier.data() : f.main.data() + s.group_of(p) * k * v, valid.data(),
                       expected.data(), nullptr);
      for (std::int64_t i = 0; i < n; ++i)
        ASSERT_EQ(loop.codes[at(p * s.code_stride + i)], expected[at(i)]) << p << ", " << i;
    }
  }
}

TEST(VqSlice, LoopsDoNotDependOnThreads) {
  const TallFixture f;
  for (const std::int64_t candidates : {1, 3})
    for (const bool with_residual : {false, true}) {
      const ColumnLoopOptions options{.candidates = candidates};
      const TallFixture::Coded one = f.run_loop(1, options, with_residual);
      EXPECT_NE(one.quantized, f.coded().quantized);
      for (const int n_threads : {2, 3, 9}) EXPECT_EQ(f.run_loop(n_threads, options, with_residual), one) << n_threads;
    }
}

TEST(VqSlice, SweepsDoNotDependOnThreads) {
  TallFixture f;
  std::vector<float> hessian = f.factor;
  for (std::int64_t i = 0; i < f.slice.in_features; ++i)
    for (std::int64_t j = 0; j < i; ++j)
      hessian[at(i * f.slice.in_features + j)] = hessian[at(j * f.slice.in_features + i)];
  const auto sweep = [&](int n_threads) {
    core::ThreadPool threads(n_threads);
    TallFixture::Coded result = f.run_loop(1, {.candidates = 2});
    result.left = f.matrix;
    cpu().slice.sweep({&threads, nullptr}, f.slice, f.books(), 2, hessian.data(), result.left.data(),
                      {result.codes.data(), result.residual_codes.data()}, result.quantized.data());
    return result;
  };
  const TallFixture::Coded one = sweep(1);
  EXPECT_NE(one.codes, f.run_loop(1, {.candidates = 2}).codes);
  for (const int n_threads : {2, 3, 9}) EXPECT_EQ(sweep(n_threads), one) << n_threads;
}

TEST(VqSlice, PackPutsEachColumnsBitsAtItsPlace) {
  Fixture f;
  // 5 bits a column, 4 columns a group: one word; stored order reversed within a group.
  const std::vector<std::int32_t> stored{3, 2, 1, 0, 3, 2, 1, 0};
  std::vector<std::uint32_t> words(2 * 8, 0xFFFFFFFFU);
  std::vector<std::uint16_t> outliers(10 * 2);
  cpu().slice.pack(f.exec, f.slice, f.code_view(), stored.data(), words.data(), outliers.data());
  for (std::int64_t group = 0; group < 2; ++group)
    for (std::int64_t i = 0; i < 8; ++i) {
      std::uint32_t expected = 0;
      for (std::int64_t j = 0; j < 4; ++j) {
        const std::size_t code = at((2 + group * 4 + j) * 10 + i);
        expected |= static_cast<std::uint32_t>(f.codes[code] | f.residual_codes[code] << 3) << (5 * (3 - j));
      }
      EXPECT_EQ(words[at(group * 8 + i)], expected) << group << ", " << i;
    }
  for (std::int64_t i = 0; i < 10; ++i)
    for (std::int64_t p = 0; p < 2; ++p) EXPECT_EQ(outliers[at(i * 2 + p)], f.codes[at(p * 10 + i)]);
}

TEST(VqSlice, PackedValuesCrossWords) {
  core::ThreadPool pool(1);
  const Exec exec{&pool, nullptr};
  const std::vector<std::int64_t> part_begin{0, 1};
  VqSlice slice;
  slice.in_features = slice.group_size = 3;
  slice.rows = slice.v = slice.width = slice.code_stride = slice.n_parts = 1;
  slice.k = 65536;
  slice.kr = 256;
  slice.part_begin = part_begin.data();
  std::vector<std::int32_t> codes{0x1234, 0x5678, 0x9ABC}, residual_codes{0xDE, 0xAD, 0xBE};
  const std::vector<std::int32_t> stored{0, 1, 2};
  std::vector<std::uint32_t> words(3);
  cpu().slice.pack(exec, slice, {codes.data(), residual_codes.data()}, stored.data(), words.data(), nullptr);
  EXPECT_THAT(words, ElementsAre(0x78DE1234U, 0x9ABCAD56U, 0x000000BEU));
}

}  // namespace
}  // namespace voronoi::kernels
