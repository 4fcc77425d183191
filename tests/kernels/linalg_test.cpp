#include <gmock/gmock.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <random>
#include <utility>
#include <vector>

#include "core/error.h"
#include "core/thread_pool.h"
#include "kernels/kernels.h"

namespace voronoi::kernels {
namespace {

template <class T>
std::vector<T> random_values(std::int64_t n, std::uint32_t seed) {
  std::mt19937 engine(seed);
  std::normal_distribution<double> normal;
  std::vector<T> values(static_cast<std::size_t>(n));
  for (T& value : values) value = static_cast<T>(normal(engine));
  return values;
}

class Linalg : public ::testing::Test {
 protected:
  core::ThreadPool pool_{2}, single_pool_{1};
  Exec exec_{&pool_, nullptr}, single_{&single_pool_, nullptr};
  const LinalgKernels& linalg_ = cpu().linalg;

  template <class T>
  void gemm(const Exec& exec, bool ta, bool tb, std::int64_t m, std::int64_t n, std::int64_t k, T alpha,
            const std::vector<T>& a, std::int64_t lda, const std::vector<T>& b, std::int64_t ldb, T beta,
            std::vector<T>& c, std::int64_t ldc) {
    if constexpr (sizeof(T) == 4)
      linalg_.gemm_f32(exec, ta, tb, m, n, k, alpha, a.data(), lda, b.data(), ldb, beta, c.data(), ldc);
    else
      linalg_.gemm_f64(exec, ta, tb, m, n, k, alpha, a.data(), lda, b.data(), ldb, beta, c.data(), ldc);
  }

  /// Against the definition in fp64; the bound is that of a sum of k products, (k + 3) eps |alpha| |A||B| + 3 eps |beta
  /// C|.
  template <class T>
  void check_gemm(bool ta, bool tb, std::int64_t m, std::int64_t n, std::int64_t k, T alpha, T beta) {
    const std::int64_t lda = (ta ? m : k) + 3, ldb = (tb ? k : n) + 1, ldc = n + 2;
    const std::vector<T> a = random_values<T>((ta ? k : m) * lda, 1), b = random_values<T>((tb ? n : k) * ldb, 2),
                         before = random_values<T>(m * ldc, 3);
    std::vector<T> c = before, alone = before;
    gemm(exec_, ta, tb, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
    gemm(single_, ta, tb, m, n, k, alpha, a, lda, b, ldb, beta, alone, ldc);
    EXPECT_EQ(c, alone) << "depends on the number of threads";
    const long double eps = std::numeric_limits<T>::epsilon();
    for (std::int64_t i = 0; i < m; ++i)
      for (std::int64_t j = 0; j < ldc; ++j) {
        const auto at = static_cast<std::size_t>(i * ldc + j);
        if (j >= n) {
          ASSERT_EQ(c[at], before[at]) << "wrote between rows";
          continue;
        }
        long double sum = 0, size = 0;
        for (std::int64_t p = 0; p < k; ++p) {
          const long double term =
              static_cast<long double>(a[static_cast<std::size_t>(ta ? p * lda + i : i * lda + p)]) *
              static_cast<long double>(b[static_cast<std::size_t>(tb ? j * ldb + p : p * ldb + j)]);
          sum += term;
          size += std::abs(term);
        }
        const long double old = static_cast<long double>(beta) * static_cast<long double>(before[at]);
        const long double bound =
            eps *
            (static_cast<long double>(k + 3) * std::abs(static_cast<long double>(alpha)) * size + 3 * std::abs(old));
        ASSERT_LE(std::abs(static_cast<long double>(alpha) * sum + old - static_cast<long double>(c[at])), bound)
            << ta << tb << " " << m << "x" << n << "x" << k << " at " << i << "," << j;
      }
  }

  template <class T>
  void check_all() {
    const std::vector<std::vector<std::int64_t>> sizes{{1, 1, 1},     {3, 5, 2},      {14, 32, 16},   {15, 33, 17},
                                                       {6, 16, 1},    {113, 65, 256}, {112, 64, 257}, {41, 130, 600},
                                                       {230, 7, 300}, {5, 37, 9000}};
    for (const auto& size : sizes)
      for (const bool ta : {false, true})
        for (const bool tb : {false, true}) {
          check_gemm<T>(ta, tb, size[0], size[1], size[2], T{1}, T{0});
          check_gemm<T>(ta, tb, size[0], size[1], size[2], T{-0.5}, T{1});
          check_gemm<T>(ta, tb, size[0], size[1], size[2], T{2}, T{0.25});
        }
  }
};

TEST_F(Linalg, GemmF32FollowsItsDefinition) { check_all<float>(); }
TEST_F(Linalg, GemmF64FollowsItsDefinition) { check_all<double>(); }

TEST_F(Linalg, GemmWithoutDepthOnlyScalesC) {
  const std::vector<float> nothing(1);
  std::vector<float> c{1, 2, 3, 4};
  gemm<float>(exec_, false, false, 2, 2, 0, 1.0F, nothing, 1, nothing, 2, 0.5F, c, 2);
  EXPECT_EQ(c, (std::vector<float>{0.5F, 1, 1.5F, 2}));
  gemm<float>(exec_, false, false, 0, 2, 5, 1.0F, nothing, 5, nothing, 2, 0.0F, c, 2);
  EXPECT_EQ(c, (std::vector<float>{0.5F, 1, 1.5F, 2}));
}

TEST_F(Linalg, GemmWithBetaZeroIgnoresWhatCHolds) {
  std::vector<float> a = random_values<float>(20 * 40, 4), b = random_values<float>(40 * 40, 5);
  std::vector<float> c(20 * 40, std::numeric_limits<float>::quiet_NaN());
  gemm<float>(exec_, false, false, 20, 40, 40, 1.0F, a, 40, b, 40, 0.0F, c, 40);
  for (const float value : c) ASSERT_TRUE(std::isfinite(value));
}

TEST_F(Linalg, GemmRowsDoNotDependOnTheRowsBesideThem) {
  // Few rows go another way: over whole depths and rests of one, columns in wholes and rests of those blocks.
  const std::int64_t m = 300, n = 150;
  for (const std::int64_t k : {4, 530, 531, 4400}) {
    const std::vector<float> a = random_values<float>(m * k, 6), b = random_values<float>(n * k, 7),
                             before = random_values<float>(m * n, 8);
    for (const auto& [alpha, beta] : {std::pair{1.0F, 0.0F}, std::pair{1.0F, 1.0F}, std::pair{-0.7F, 0.3F}}) {
      std::vector<float> whole = before;
      gemm<float>(exec_, false, true, m, n, k, alpha, a, k, b, k, beta, whole, n);
      for (const std::int64_t first : {0, 110, 295})
        for (std::int64_t rows = 1; rows <= 5; ++rows) {
          std::vector<float> alone(before.begin() + first * n, before.begin() + (first + rows) * n);
          linalg_.gemm_f32(exec_, false, true, rows, n, k, alpha, a.data() + first * k, k, b.data(), k, beta,
                           alone.data(), n);
          EXPECT_TRUE(std::equal(alone.begin(), alone.end(), whole.begin() + first * n))
              << rows << " rows from " << first << ", " << k << " deep";
        }
    }
  }
}

TEST_F(Linalg, GemmColumnsBeyondOneSlabAreRight) {
  // More elements of B than are packed at a time; B is a shift by one, so that the answer is exact.
  const std::int64_t n = 1500, k = 1500;
  std::vector<float> b(static_cast<std::size_t>(n * k));
  for (std::int64_t i = 0; i < k; ++i) b[static_cast<std::size_t>(i * n + (i + 1) % n)] = 1;
  const std::vector<float> a = random_values<float>(2 * k, 8);
  std::vector<float> c(static_cast<std::size_t>(2 * n));
  gemm<float>(exec_, false, false, 2, n, k, 1.0F, a, k, b, n, 0.0F, c, n);
  for (std::int64_t r = 0; r < 2; ++r)
    for (std::int64_t i = 0; i < k; ++i)
      ASSERT_EQ(c[static_cast<std::size_t>(r * n + (i + 1) % n)], a[static_cast<std::size_t>(r * k + i)]);
}

TEST_F(Linalg, GramAccumulatesTheLowerTriangle) {
  for (const auto& [n_rows, n] :
       std::vector<std::pair<std::int64_t, std::int64_t>>{{1, 1}, {7, 33}, {300, 130}, {2049, 20}, {5000, 37}}) {
    const std::int64_t ldx = n + 2;
    const std::vector<float> x = random_values<float>(n_rows * ldx, 9);
    std::vector<double> sum(static_cast<std::size_t>(n * (n + 1) / 2), 3.0), alone = sum;
    linalg_.gram_accumulate(exec_, n_rows, n, x.data(), ldx, core::DType::f32, sum.data());
    linalg_.gram_accumulate(single_, n_rows, n, x.data(), ldx, core::DType::f32, alone.data());
    EXPECT_EQ(sum, alone);
    for (std::int64_t i = 0; i < n; ++i)
      for (std::int64_t j = 0; j <= i; ++j) {
        const double value = sum[static_cast<std::size_t>(i * (i + 1) / 2 + j)];
        double expected = 3, size = 0;
        for (std::int64_t r = 0; r < n_rows; ++r) {
          const double term = static_cast<double>(x[static_cast<std::size_t>(r * ldx + i)]) *
                              static_cast<double>(x[static_cast<std::size_t>(r * ldx + j)]);
          expected += term;
          size += std::abs(term);
        }
        // Errors of the fp32 chains are of random sign: far below the worst case of n_rows * eps.
        ASSERT_NEAR(value, expected, 4 * std::sqrt(256.0) * 6e-8 * size) << n_rows << " x " << n;
      }
  }
}

TEST_F(Linalg, GramOfManyColumnsEqualsGemm) {
  const std::int64_t n_rows = 2048, n = 2200;
  std::vector<float> x(static_cast<std::size_t>(n_rows * n));
  std::mt19937 engine(10);
  for (float& value : x) value = static_cast<float>(static_cast<int>(engine() % 7) - 3);  // integers: sums are exact
  std::vector<double> sum(static_cast<std::size_t>(n * (n + 1) / 2));
  std::vector<float> product(static_cast<std::size_t>(n * n));
  linalg_.gram_accumulate(exec_, n_rows, n, x.data(), n, core::DType::f32, sum.data());
  gemm<float>(exec_, true, false, n, n, n_rows, 1.0F, x, n, x, n, 0.0F, product, n);
  for (std::int64_t i = 0; i < n; ++i)
    for (std::int64_t j = 0; j <= i; ++j)
      ASSERT_EQ(sum[static_cast<std::size_t>(i * (i + 1) / 2 + j)],
                static_cast<double>(product[static_cast<std::size_t>(i * n + j)]))
          << i << "," << j;
}

/// X X^T / n + identity of an [n, n] normal X, in an [n, lda] buffer whose upper part and padding hold `mark`.
std::vector<double> positive_definite(std::int64_t n, std::int64_t lda, double mark) {
  const std::vector<double> x = random_values<double>(n * n, 11);
  std::vector<double> a(static_cast<std::size_t>(n * lda), mark);
  for (std::int64_t i = 0; i < n; ++i)
    for (std::int64_t j = 0; j <= i; ++j) {
      double sum = i == j ? 1 : 0;
      for (std::int64_t p = 0; p < n; ++p)
        sum += x[static_cast<std::size_t>(i * n + p)] * x[static_cast<std::size_t>(j * n + p)] / static_cast<double>(n);
      a[static_cast<std::size_t>(i * lda + j)] = sum;
    }
  return a;
}

TEST_F(Linalg, CholeskyGivesBackTheMatrixAndKeepsItsUpperPart) {
  for (const std::int64_t n : {1, 2, 63, 64, 65, 129, 200, 333}) {
    const std::int64_t lda = n + 3;
    const std::vector<double> a = positive_definite(n, lda, 42.0);
    std::vector<double> l = a, alone = a;
    ASSERT_EQ(linalg_.cholesky_lower_f64(exec_, n, l.data(), lda), 0);
    ASSERT_EQ(linalg_.cholesky_lower_f64(single_, n, alone.data(), lda), 0);
    EXPECT_EQ(l, alone);
    for (std::int64_t i = 0; i < n; ++i)
      for (std::int64_t j = 0; j < lda; ++j) {
        if (j > i) {
          ASSERT_EQ(l[static_cast<std::size_t>(i * lda + j)], 42.0) << "wrote above the diagonal, order " << n;
          continue;
        }
        double sum = 0;
        for (std::int64_t p = 0; p <= j; ++p)
          sum += l[static_cast<std::size_t>(i * lda + p)] * l[static_cast<std::size_t>(j * lda + p)];
        ASSERT_NEAR(sum, a[static_cast<std::size_t>(i * lda + j)], 1e-14 * static_cast<double>(n + 1) * 8);
      }
  }
}

TEST_F(Linalg, CholeskyOfAKnownFactorIsExact) {
  // L of small integers: every product and square root is exact, in whatever order.
  const std::int64_t n = 150;
  std::vector<double> factor(static_cast<std::size_t>(n * n)), a(factor.size());
  for (std::int64_t i = 0; i < n; ++i)
    for (std::int64_t j = 0; j <= i; ++j)
      factor[static_cast<std::size_t>(i * n + j)] = i == j ? 1 : static_cast<double>((i * 7 + j * 3) % 3 - 1);
  gemm<double>(exec_, false, true, n, n, n, 1.0, factor, n, factor, n, 0.0, a, n);
  ASSERT_EQ(linalg_.cholesky_lower_f64(exec_, n, a.data(), n), 0);
  for (std::int64_t i = 0; i < n; ++i)
    for (std::int64_t j = 0; j <= i; ++j)
      ASSERT_EQ(a[static_cast<std::size_t>(i * n + j)], factor[static_cast<std::size_t>(i * n + j)]);
}

TEST_F(Linalg, CholeskyNamesTheLeadingMinorThatFails) {
  for (const std::int64_t bad : {0, 5, 63, 64, 100, 199}) {
    const std::int64_t n = 200;
    std::vector<double> a = positive_definite(n, n, 0.0);
    a[static_cast<std::size_t>(bad * n + bad)] = -1e-3;
    EXPECT_EQ(linalg_.cholesky_lower_f64(exec_, n, a.data(), n), bad + 1);
    a = positive_definite(n, n, 0.0);
    a[static_cast<std::size_t>(bad * n + bad)] = std::numeric_limits<double>::quiet_NaN();
    EXPECT_EQ(linalg_.cholesky_lower_f64(exec_, n, a.data(), n), bad + 1);
  }
}

TEST_F(Linalg, InverseOfALowerTriangleIsItsInverse) {
  for (const std::int64_t n : {1, 2, 64, 65, 128, 257, 700}) {
    const std::int64_t ldl = n + 1;
    std::vector<double> l = positive_definite(n, ldl, 42.0);
    ASSERT_EQ(linalg_.cholesky_lower_f64(exec_, n, l.data(), ldl), 0);
    std::vector<double> inverse = l, alone = l;
    ASSERT_EQ(linalg_.invert_lower_f64(exec_, n, inverse.data(), ldl), 0);
    ASSERT_EQ(linalg_.invert_lower_f64(single_, n, alone.data(), ldl), 0);
    EXPECT_EQ(inverse, alone);
    for (std::int64_t i = 0; i < n; ++i)
      for (std::int64_t j = 0; j < ldl; ++j) {
        if (j > i) {
          ASSERT_EQ(inverse[static_cast<std::size_t>(i * ldl + j)], 42.0) << "wrote above the diagonal, order " << n;
          continue;
        }
        double sum = 0;
        for (std::int64_t p = j; p <= i; ++p)
          sum += l[static_cast<std::size_t>(i * ldl + p)] * inverse[static_cast<std::size_t>(p * ldl + j)];
        ASSERT_NEAR(sum, i == j ? 1.0 : 0.0, 1e-12) << n;
      }
  }
}

TEST_F(Linalg, InverseNamesAZeroOnTheDiagonal) {
  std::vector<double> l = positive_definite(100, 100, 0.0);
  l[70 * 100 + 70] = 0;
  EXPECT_EQ(linalg_.invert_lower_f64(exec_, 100, l.data(), 100), 71);
}

TEST_F(Linalg, RowsAreGatheredInTheOrderOfTheirIds) {
  const std::vector<float> x{0, 1, 2, 10, 11, 12, 20, 21, 22};
  const std::vector<std::int32_t> ids{2, 0, 2};
  const std::vector<float> expected{20, 21, 22, 0, 1, 2, 20, 21, 22};
  std::vector<float> out(9);
  linalg_.gather_rows_f32(exec_, ids.data(), 3, 3, x.data(), out.data());
  EXPECT_EQ(out, expected);
  for (const core::DType dtype : {core::DType::f16, core::DType::bf16}) {
    std::vector<std::uint16_t> bits;
    for (const float value : x) bits.push_back(core::to_bits16(dtype, value));
    std::fill(out.begin(), out.end(), -1.0F);
    linalg_.gather_rows_16(exec_, ids.data(), 3, 3, dtype, bits.data(), out.data());
    EXPECT_EQ(out, expected);
  }
}

TEST_F(Linalg, RowsWithAValueThatIsTooLargeAreNotBounded) {
  const float nan = std::numeric_limits<float>::quiet_NaN(), infinity = std::numeric_limits<float>::infinity();
  const std::vector<float> x{10, -10, -10.5F, 0, 0, nan, infinity, 0, 0, 0};
  bool bounded[5];
  linalg_.bounded_rows(exec_, 5, 2, x.data(), 10, bounded);
  EXPECT_THAT(bounded, testing::ElementsAre(true, false, false, false, true));
}

TEST_F(Linalg, DiagonalsOfMatricesAndTriangles) {
  const std::vector<double> full{1, 2, 3, 4, 5, 6, 7, 8, 9}, lower{1, 4, 5, 7, 8, 9};
  std::vector<double> diagonal(3), of_triangle(3);
  linalg_.diagonal_f64(exec_, 3, full.data(), diagonal.data());
  linalg_.packed_diagonal_f64(exec_, 3, lower.data(), of_triangle.data());
  EXPECT_EQ(diagonal, (std::vector<double>{1, 5, 9}));
  EXPECT_EQ(of_triangle, diagonal);
}

TEST_F(Linalg, ValuesAreWidenedAndAdded) {
  const std::vector<float> narrow{1.5F, -0.1F};
  std::vector<double> wide(2, 9.0);
  linalg_.widen_f64(exec_, 2, narrow.data(), wide.data());
  EXPECT_EQ(wide, (std::vector<double>{1.5, static_cast<double>(-0.1F)}));
  linalg_.add_f64(exec_, 2, std::vector<double>{1, 2}.data(), wide.data());
  EXPECT_EQ(wide, (std::vector<double>{2.5, 2 + static_cast<double>(-0.1F)}));
}

TEST_F(Linalg, NegativeExtentsAreRefused) {
  std::vector<float> x(4);
  EXPECT_THROW(linalg_.gemm_f32(exec_, false, false, -1, 2, 2, 1.0F, x.data(), 2, x.data(), 2, 0.0F, x.data(), 2),
               core::InternalError);
}

}  // namespace
}  // namespace voronoi::kernels
