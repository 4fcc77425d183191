// Products against the definition in fp64, within the bound of what the header promises; factorizations by their
// residual.
#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <span>

#include "core/types.h"
#include "gpu/gpu_fixture.h"

namespace voronoi {
namespace {

std::size_t at(std::int64_t i) { return static_cast<std::size_t>(i); }

/// out[i, j] of op(A) op(B) in fp64, and of their magnitudes: what an error bound is relative to.
struct Exact {
  std::vector<double> value, size;
};

template <class T>
Exact product(bool ta, bool tb, std::int64_t m, std::int64_t n, std::int64_t k, const std::vector<T>& a,
              std::int64_t lda, const std::vector<T>& b, std::int64_t ldb) {
  Exact exact{std::vector<double>(at(m * n)), std::vector<double>(at(m * n))};
  for (std::int64_t i = 0; i < m; ++i)
    for (std::int64_t p = 0; p < k; ++p) {
      const auto left = static_cast<double>(a[at(ta ? p * lda + i : i * lda + p)]);
      for (std::int64_t j = 0; j < n; ++j) {
        const double term = left * static_cast<double>(b[at(tb ? j * ldb + p : p * ldb + j)]);
        exact.value[at(i * n + j)] += term;
        exact.size[at(i * n + j)] += std::abs(term);
      }
    }
  return exact;
}

class LinalgTest : public test::GpuTest {
 protected:
  template <class T>
  void check_gemm(bool ta, bool tb, std::int64_t m, std::int64_t n, std::int64_t k, T alpha, T beta) {
    const std::int64_t lda = (ta ? m : k) + 3, ldb = (tb ? k : n) + 1, ldc = n + 2;
    const auto typed = [](const std::vector<float>& values) { return std::vector<T>(values.begin(), values.end()); };
    const std::vector<T> a = typed(test::normal_values((ta ? k : m) * lda, 1)),
                         b = typed(test::normal_values((tb ? n : k) * ldb, 2)),
                         before = typed(test::normal_values(m * ldc, 3));
    const auto da = on_gpu(a), db = on_gpu(b);
    auto dc = on_gpu(before), again = on_gpu(before);
    for (backend::Array<T>* c : {&dc, &again})
      if constexpr (sizeof(T) == 4)
        gpu().linalg().gemm_f32(gpu().exec(), ta, tb, m, n, k, alpha, da.data(), lda, db.data(), ldb, beta, c->data(),
                                ldc);
      else
        gpu().linalg().gemm_f64(gpu().exec(), ta, tb, m, n, k, alpha, da.data(), lda, db.data(), ldb, beta, c->data(),
                                ldc);
    const std::vector<T> c = dc.to_host();
    EXPECT_EQ(c, again.to_host()) << "two runs differ";
    const Exact exact = product(ta, tb, m, n, k, a, lda, b, ldb);
    // fp32: of both ways the split has the larger bound, (3 * 2^-22 + 3 k 2^-23) |A||B|.
    const double eps = std::numeric_limits<T>::epsilon();
    const double factor = sizeof(T) == 4 ? (6 + 3 * static_cast<double>(k)) * eps : static_cast<double>(k + 3) * eps;
    for (std::int64_t i = 0; i < m; ++i)
      for (std::int64_t j = 0; j < ldc; ++j) {
        const double old = static_cast<double>(before[at(i * ldc + j)]), got = static_cast<double>(c[at(i * ldc + j)]);
        if (j >= n) {
          ASSERT_EQ(got, old) << "wrote between rows";
          continue;
        }
        const double expected =
            static_cast<double>(alpha) * exact.value[at(i * n + j)] + static_cast<double>(beta) * old;
        const double bound = factor * std::abs(static_cast<double>(alpha)) * exact.size[at(i * n + j)] +
                             4 * eps * std::abs(static_cast<double>(beta) * old);
        ASSERT_LE(std::abs(got - expected), bound) << ta << tb << " " << m << "x" << n << "x" << k;
      }
  }

  template <class T>
  void check_all() {
    const std::vector<std::vector<std::int64_t>> sizes{
        {1, 1, 1}, {3, 5, 2}, {15, 33, 17}, {41, 130, 60}, {193, 200, 195}};
    for (const auto& size : sizes)
      for (const bool ta : {false, true})
        for (const bool tb : {false, true}) {
          check_gemm<T>(ta, tb, size[0], size[1], size[2], T{1}, T{0});
          check_gemm<T>(ta, tb, size[0], size[1], size[2], T{-0.5}, T{0.25});
        }
    check_gemm<T>(false, true, 7, 9, 0, T{1}, T{0.5});
    check_gemm<T>(false, true, 7, 9, 0, T{1}, T{0});
  }

  /// A symmetric positive definite matrix.
  std::vector<double> positive(std::int64_t n) {
    const std::vector<float> x = test::normal_values(n * n, 21);
    std::vector<double> a(at(n * n));
    for (std::int64_t i = 0; i < n; ++i)
      for (std::int64_t j = 0; j < n; ++j) {
        double sum = i == j ? 1.0 : 0.0;
        for (std::int64_t p = 0; p < n; ++p)
          sum += static_cast<double>(x[at(i * n + p)]) * static_cast<double>(x[at(j * n + p)]) / static_cast<double>(n);
        a[at(i * n + j)] = sum;
      }
    return a;
  }
};

TEST_F(LinalgTest, GemmF32FollowsItsDefinition) { check_all<float>(); }
TEST_F(LinalgTest, GemmF64FollowsItsDefinition) { check_all<double>(); }

TEST_F(LinalgTest, GemmOfUntransposedBIsTheCpusToTheBit) {
  for (const auto& size :
       std::vector<std::vector<std::int64_t>>{{1, 1, 1}, {3, 5, 17}, {130, 129, 16}, {70, 200, 257}, {129, 30, 530}})
    for (const bool ta : {false, true})
      for (const auto& [alpha, beta] : std::vector<std::pair<float, float>>{{1, 0}, {-1, 1}, {0.3F, 0.7F}}) {
        const std::int64_t m = size[0], n = size[1], k = size[2], lda = (ta ? m : k) + 1, ldb = n + 3, ldc = n + 2;
        const std::vector<float> a = test::normal_values((ta ? k : m) * lda, 31), b = test::normal_values(k * ldb, 32);
        std::vector<float> c = test::normal_values(m * ldc, 33);
        const auto da = on_gpu(a), db = on_gpu(b);
        auto dc = on_gpu(c);
        cpu().linalg().gemm_f32(cpu().exec(), ta, false, m, n, k, alpha, a.data(), lda, b.data(), ldb, beta, c.data(),
                                ldc);
        gpu().linalg().gemm_f32(gpu().exec(), ta, false, m, n, k, alpha, da.data(), lda, db.data(), ldb, beta,
                                dc.data(), ldc);
        ASSERT_EQ(dc.to_host(), c) << ta << " " << m << "x" << n << "x" << k;
      }
}

TEST_F(LinalgTest, GemmWithBetaZeroIgnoresWhatCHolds) {
  for (const std::int64_t extent : {20, 200}) {
    const auto a = on_gpu(test::normal_values(extent * extent, 4));
    auto c = on_gpu(std::vector<float>(at(extent * extent), std::numeric_limits<float>::quiet_NaN()));
    gpu().linalg().gemm_f32(gpu().exec(), false, true, extent, extent, extent, 1.0F, a.data(), extent, a.data(), extent,
                            0.0F, c.data(), extent);
    for (const float value : c.to_host()) ASSERT_TRUE(std::isfinite(value));
  }
}

TEST_F(LinalgTest, LargeProductsKeepTheDigitsOfSinglePrecision) {
  // Values whose tf32 alone would be off by 2^-11: the split must be far below, at every magnitude fp32 has.
  const std::int64_t n = 192;
  for (const float magnitude : {1e-18F, 1.0F, 1e18F}) {
    std::vector<float> a = test::normal_values(n * n, 5), identity(at(n * n));
    for (float& value : a) value *= magnitude;
    a[0] = std::numeric_limits<float>::max() * (1 - 0x1p-13F);  // its nearest tf32 would be infinite
    for (std::int64_t i = 0; i < n; ++i) identity[at(i * n + i)] = 1;
    const auto da = on_gpu(a), db = on_gpu(identity);
    backend::Array<float> c(gpu(), n * n);
    gpu().linalg().gemm_f32(gpu().exec(), false, true, n, n, n, 1.0F, da.data(), n, db.data(), n, 0.0F, c.data(), n);
    const std::vector<float> got = c.to_host();
    for (std::int64_t i = 0; i < n * n; ++i)
      ASSERT_LE(std::abs(got[at(i)] / 2 - a[at(i)] / 2), std::ldexp(std::abs(a[at(i)] / 2), -21)) << i;
  }
}

TEST_F(LinalgTest, Gemm16RoundsOneOperandAndSumsInSinglePrecision) {
  for (const core::DType dtype : {core::DType::f16, core::DType::bf16})
    for (const auto& size : std::vector<std::vector<std::int64_t>>{{1, 1, 1}, {3, 70, 33}, {65, 31, 200}})
      for (const auto& [beta, transpose_w] : {std::pair{0.0F, true}, {1.0F, true}, {0.0F, false}, {1.0F, false}}) {
        const std::int64_t m = size[0], n = size[1], k = size[2], lda = k + 1, ldw = (transpose_w ? k : n) + 2,
                           ldc = n + 3;
        const std::vector<float> a = test::normal_values(m * lda, 6),
                                 w = test::normal_values((transpose_w ? n : k) * ldw, 7),
                                 before = test::normal_values(m * ldc, 8);
        std::vector<std::uint16_t> bits(w.size());
        std::vector<float> rounded_a(a.size()), rounded_w(w.size());
        for (std::size_t i = 0; i < a.size(); ++i) rounded_a[i] = core::round_to(dtype, a[i]);
        for (std::size_t i = 0; i < w.size(); ++i) {
          bits[i] = core::to_bits16(dtype, w[i]);
          rounded_w[i] = core::from_bits16(dtype, bits[i]);
        }
        const auto da = on_gpu(a);
        const auto dw = on_gpu(bits);
        auto dc = on_gpu(before);
        const auto gemm = transpose_w ? gpu().linalg().gemm_16 : gpu().linalg().gemm_16_back;
        gemm(gpu().exec(), m, n, k, da.data(), lda, dtype, dw.data(), ldw, beta, dc.data(), ldc);
        const std::vector<float> c = dc.to_host();
        const Exact exact = product(false, transpose_w, m, n, k, rounded_a, lda, rounded_w, ldw);
        for (std::int64_t i = 0; i < m; ++i)
          for (std::int64_t j = 0; j < ldc; ++j) {
            const float old = before[at(i * ldc + j)];
            if (j >= n) {
              ASSERT_EQ(c[at(i * ldc + j)], old) << "wrote between rows";
              continue;
            }
            const double expected = exact.value[at(i * n + j)] + static_cast<double>(beta) * static_cast<double>(old);
            // Exact products; each sum of the tensor cores rounds towards zero.
            const double bound =
                static_cast<double>(k + 2) * 0x1p-23 * (exact.size[at(i * n + j)] + std::abs(static_cast<double>(old)));
            ASSERT_LE(std::abs(static_cast<double>(c[at(i * ldc + j)]) - expected), bound) << m << "x" << n << "x" << k;
          }
      }
}

TEST_F(LinalgTest, Gemm16OuterRoundsBothOperands) {
  for (const core::DType dtype : {core::DType::f16, core::DType::bf16})
    for (const auto& size : std::vector<std::vector<std::int64_t>>{{1, 1, 1}, {3, 70, 33}, {65, 31, 200}, {4, 5, 0}}) {
      const std::int64_t m = size[0], n = size[1], k = size[2], lda = m + 1, ldb = n + 2, ldc = n + 3;
      const std::vector<float> a = test::normal_values(k * lda, 16), b = test::normal_values(k * ldb, 17);
      std::vector<float> rounded_a = a, rounded_b = b;
      std::vector<std::uint16_t> bits;
      for (float& value : rounded_a) value = core::round_to(dtype, value);
      for (float& value : rounded_b) {
        bits.push_back(core::to_bits16(dtype, value));
        value = core::round_to(dtype, value);
      }
      const auto da = on_gpu(a), db = on_gpu(b);
      backend::Array<std::uint16_t> narrow(gpu(), std::ssize(b));
      gpu().linalg().round_16(gpu().exec(), std::ssize(b), db.data(), dtype, narrow.data());
      EXPECT_EQ(narrow.to_host(), bits);
      auto dc = on_gpu(std::vector<float>(at(m * ldc), 3.0F));
      gpu().linalg().gemm_16_outer(gpu().exec(), m, n, k, da.data(), lda, db.data(), ldb, dtype, dc.data(), ldc);
      const std::vector<float> c = dc.to_host();
      const Exact exact = product(true, false, m, n, k, rounded_a, lda, rounded_b, ldb);
      for (std::int64_t i = 0; i < m; ++i)
        for (std::int64_t j = 0; j < ldc; ++j) {
          const double expected = j < n ? exact.value[at(i * n + j)] : 3.0;
          const double bound = j < n ? static_cast<double>(k + 2) * 0x1p-23 * exact.size[at(i * n + j)] : 0.0;
          ASSERT_LE(std::abs(static_cast<double>(c[at(i * ldc + j)]) - expected), bound) << m << "x" << n << "x" << k;
        }
    }
}

TEST_F(LinalgTest, GramAddsToTheLowerTriangle) {
  for (const core::DType dtype : {core::DType::f32, core::DType::f16, core::DType::bf16})
    for (const auto& [n_rows, n] :
         std::vector<std::pair<std::int64_t, std::int64_t>>{{1, 1}, {7, 33}, {300, 130}, {4099, 20}, {200, 201}}) {
      const std::int64_t ldx = n + 2;
      const std::vector<float> x = test::normal_values(n_rows * ldx, 9);
      std::vector<float> rounded = x;
      for (float& value : rounded) value = core::round_to(dtype, value);
      const auto dx = on_gpu(x);
      auto sum = on_gpu(std::vector<double>(at(n * (n + 1) / 2), 3.0));
      gpu().linalg().gram_accumulate(gpu().exec(), n_rows, n, dx.data(), ldx, dtype, sum.data());
      const std::vector<double> got = sum.to_host();
      const Exact exact = product(true, false, n, n, n_rows, rounded, ldx, rounded, ldx);
      for (std::int64_t i = 0; i < n; ++i)
        for (std::int64_t j = 0; j <= i; ++j) {
          const double value = got[at(i * (i + 1) / 2 + j)];
          const double rows = static_cast<double>(std::min<std::int64_t>(n_rows, 4096));
          ASSERT_LE(std::abs(value - 3.0 - exact.value[at(i * n + j)]),
                    (6 + 3 * rows) * 0x1p-23 * exact.size[at(i * n + j)] + 1e-12)
              << n_rows << " " << n << " at " << i << "," << j;
        }
    }
}

TEST_F(LinalgTest, FactorsAndInvertsInPlace) {
  for (const std::int64_t n : {1, 2, 65, 130}) {
    const std::int64_t ld = n + 1;
    const std::vector<double> a = positive(n);
    std::vector<double> padded(at(n * ld), -7.0);
    for (std::int64_t i = 0; i < n; ++i) std::copy_n(a.begin() + i * n, n, padded.begin() + i * ld);
    for (std::int64_t i = 0; i < n; ++i)
      for (std::int64_t j = i + 1; j < n; ++j) padded[at(i * ld + j)] = 11.0;
    auto work = on_gpu(padded);
    ASSERT_EQ(gpu().linalg().cholesky_lower_f64(gpu().exec(), n, work.data(), ld), 0);
    const std::vector<double> l = work.to_host();
    ASSERT_EQ(gpu().linalg().invert_lower_f64(gpu().exec(), n, work.data(), ld), 0);
    const std::vector<double> inverse = work.to_host();
    const double eps = std::numeric_limits<double>::epsilon() * static_cast<double>(n + 2);
    for (std::int64_t i = 0; i < n; ++i)
      for (std::int64_t j = 0; j < ld; ++j) {
        if (j > i) {
          ASSERT_EQ(l[at(i * ld + j)], padded[at(i * ld + j)]) << "wrote above the diagonal";
          ASSERT_EQ(inverse[at(i * ld + j)], padded[at(i * ld + j)]) << "wrote above the diagonal";
          continue;
        }
        double sum = 0, size = 0, identity = 0, identity_size = 0;
        for (std::int64_t p = 0; p <= j; ++p) {
          sum += l[at(i * ld + p)] * l[at(j * ld + p)];
          size += std::abs(l[at(i * ld + p)] * l[at(j * ld + p)]);
        }
        for (std::int64_t p = j; p <= i; ++p) {
          identity += inverse[at(i * ld + p)] * l[at(p * ld + j)];
          identity_size += std::abs(inverse[at(i * ld + p)] * l[at(p * ld + j)]);
        }
        ASSERT_LE(std::abs(sum - a[at(i * n + j)]), 4 * eps * size) << n << " at " << i << "," << j;
        // A blocked inverse is bounded through |L^-1||L||L^-1||L|; these matrices are well conditioned.
        ASSERT_LE(std::abs(identity - (i == j ? 1.0 : 0.0)), 100 * eps * (1 + identity_size)) << n;
      }
  }
}

TEST_F(LinalgTest, SaysWhichMinorIsNotPositiveAndWhichDiagonalIsZero) {
  const std::int64_t n = 70;
  std::vector<double> a(at(n * n));
  for (std::int64_t i = 0; i < n; ++i) a[at(i * n + i)] = i == 66 ? -1.0 : 2.0;
  auto work = on_gpu(a);
  EXPECT_EQ(gpu().linalg().cholesky_lower_f64(gpu().exec(), n, work.data(), n), 67);
  a[at(66 * n + 66)] = 0.0;
  work.assign(a);
  EXPECT_EQ(gpu().linalg().invert_lower_f64(gpu().exec(), n, work.data(), n), 67);
}

TEST_F(LinalgTest, RowsAreGatheredExactly) {
  for (const std::int64_t n : {1, 7, 64, 1030}) {
    const std::vector<std::int32_t> ids{3, 0, 3, 8, 1};
    const std::vector<float> x = test::normal_values(9 * n, 3);
    const auto gpu_ids = on_gpu(ids);
    backend::Array<float> out(gpu(), 5 * n);
    std::vector<float> expected(at(5 * n));
    const auto gpu_x = on_gpu(x);
    gpu().linalg().gather_rows_f32(gpu().exec(), gpu_ids.data(), 5, n, gpu_x.data(), out.data());
    cpu().linalg().gather_rows_f32(cpu().exec(), ids.data(), 5, n, x.data(), expected.data());
    EXPECT_EQ(out.to_host(), expected);
    for (const core::DType dtype : {core::DType::f16, core::DType::bf16}) {
      std::vector<std::uint16_t> bits;
      for (const float value : x) bits.push_back(core::to_bits16(dtype, value));
      const auto gpu_bits = on_gpu(bits);
      gpu().linalg().gather_rows_16(gpu().exec(), gpu_ids.data(), 5, n, dtype, gpu_bits.data(), out.data());
      for (std::int64_t i = 0; i < 5 * n; ++i)
        expected[at(i)] = core::round_to(dtype, x[at(ids[at(i / n)] * n + i % n)]);
      EXPECT_EQ(out.to_host(), expected);
    }
  }
}

TEST_F(LinalgTest, RowsThatAreTooLargeAreFound) {
  // More rows than a grid's second extent holds.
  const std::int64_t n_rows = 70001, n = 3;
  std::vector<float> x(at(n_rows * n), 0.5F);
  x[at(69999 * n + 2)] = std::numeric_limits<float>::quiet_NaN();
  x[at(5 * n)] = -std::numeric_limits<float>::infinity();
  x[at(7 * n + 1)] = std::nextafter(2.0F, 3.0F);
  x[at(8 * n + 1)] = -2.0F;
  const auto gpu_x = on_gpu(x);
  const auto bounded = std::make_unique<bool[]>(at(n_rows));
  gpu().linalg().bounded_rows(gpu().exec(), n_rows, n, gpu_x.data(), 2.0F, bounded.get());
  for (std::int64_t row = 0; row < n_rows; ++row)
    ASSERT_EQ(bounded[at(row)], row != 5 && row != 7 && row != 69999) << row;
}

TEST_F(LinalgTest, DiagonalsOfAllSizes) {
  for (const std::int64_t n : {1, 255, 257}) {
    std::vector<double> full(at(n * n)), expected;
    for (std::size_t i = 0; i < full.size(); ++i) full[i] = static_cast<double>(i);
    for (std::int64_t i = 0; i < n; ++i) expected.push_back(static_cast<double>(i * (n + 1)));
    const auto gpu_full = on_gpu(full);
    backend::Array<double> diagonal(gpu(), n);
    gpu().linalg().diagonal_f64(gpu().exec(), n, gpu_full.data(), diagonal.data());
    EXPECT_EQ(diagonal.to_host(), expected);
    std::vector<double> lower;
    for (std::int64_t row = 0; row < n; ++row)
      for (std::int64_t column = 0; column <= row; ++column) lower.push_back(static_cast<double>(row * n + column));
    const auto gpu_lower = on_gpu(lower);
    gpu().linalg().packed_diagonal_f64(gpu().exec(), n, gpu_lower.data(), diagonal.data());
    EXPECT_EQ(diagonal.to_host(), expected);
  }
}

}  // namespace
}  // namespace voronoi
