// The products and the factorization against OpenBLAS and LAPACK.
#include <cblas.h>
#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <random>
#include <vector>

#include "core/thread_pool.h"
#include "kernels/kernels.h"

extern "C" void dpotrf_(const char* uplo, const int* n, double* a, const int* lda, int* info);

namespace voronoi::kernels {
namespace {

template <class T>
std::vector<T> oracle_values(std::int64_t n, unsigned seed) {
  std::mt19937 generator(seed);
  std::normal_distribution<double> normal;
  std::vector<T> values(static_cast<std::size_t>(n));
  for (T& value : values) value = static_cast<T>(normal(generator));
  return values;
}

TEST(BlasOracle, SinglePrecisionProductAgreesWithinItsBound) {
  core::ThreadPool pool(2);
  const Exec exec{&pool, nullptr};
  for (const auto& [m, n, k] : {std::array<int, 3>{1, 1, 1}, {7, 33, 129}, {130, 257, 300}, {513, 48, 769}})
    for (const bool ta : {false, true})
      for (const bool tb : {false, true}) {
        const auto a = oracle_values<float>(m * k, 1), b = oracle_values<float>(n * k, 2);
        auto ours = oracle_values<float>(m * n, 3), theirs = ours;
        const int lda = ta ? m : k, ldb = tb ? k : n;
        cpu().linalg.gemm_f32(exec, ta, tb, m, n, k, 0.5F, a.data(), lda, b.data(), ldb, -1.0F, ours.data(), n);
        cblas_sgemm(CblasRowMajor, ta ? CblasTrans : CblasNoTrans, tb ? CblasTrans : CblasNoTrans, m, n, k, 0.5F,
                    a.data(), lda, b.data(), ldb, -1.0F, theirs.data(), n);
        // Both err by at most about k eps |a| |b|; entries are of order one.
        const float bound = 4.0F * static_cast<float>(k + 2) * 6e-8F * std::sqrt(static_cast<float>(k)) + 1e-5F;
        for (std::size_t i = 0; i < ours.size(); ++i)
          ASSERT_NEAR(ours[i], theirs[i], bound) << m << "x" << n << "x" << k << " at " << i;
      }
}

TEST(BlasOracle, CholeskyAgreesWithLapack) {
  core::ThreadPool pool(2);
  const Exec exec{&pool, nullptr};
  for (const int n : {1, 5, 64, 200, 577}) {
    const auto x = oracle_values<double>(static_cast<std::int64_t>(n) * (n + 3), 5);
    std::vector<double> a(static_cast<std::size_t>(n) * static_cast<std::size_t>(n));
    cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasTrans, n, n, n + 3, 1.0, x.data(), n + 3, x.data(), n + 3, 0.0,
                a.data(), n);
    for (int i = 0; i < n; ++i)
      a[static_cast<std::size_t>(i) * static_cast<std::size_t>(n) + static_cast<std::size_t>(i)] += 0.01 * n;
    std::vector<double> ours = a, theirs = a;
    ASSERT_EQ(cpu().linalg.cholesky_lower_f64(exec, n, ours.data(), n), 0);
    int info = -1;
    dpotrf_("U", &n, theirs.data(), &n, &info);  // column-major upper is row-major lower
    ASSERT_EQ(info, 0);
    for (int i = 0; i < n; ++i)
      for (int j = 0; j <= i; ++j) {
        const auto at = static_cast<std::size_t>(i) * static_cast<std::size_t>(n) + static_cast<std::size_t>(j);
        ASSERT_NEAR(ours[at], theirs[at], 1e-9 * std::sqrt(static_cast<double>(n))) << n << ": " << i << ", " << j;
      }
  }
}

}  // namespace
}  // namespace voronoi::kernels
