// B's rows lie along k, and every element of C is a chain over k: blocks of rows are turned in registers, so that a
// vector holds one k of as many rows as it has lanes. Packing them first, as kernels/cpu/gemm.cpp does, would write and
// read all of B once more.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/gemm_few_rows.cpp"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
// After highway.h, which sets up the target.
#include <algorithm>

#include "core/types.h"
#include "kernels/cpu/gemm_few_rows.h"
#include "kernels/cpu/micro_kernel-inl.h"

HWY_BEFORE_NAMESPACE();
namespace voronoi::kernels::HWY_NAMESPACE {
namespace {

#if HWY_TARGET == HWY_SCALAR
std::int64_t gemm_few_rows(const Exec&, const MatrixProduct<float>&, int) { return 0; }
#else

using FewTag = hn::CappedTag<float, 16>;
using FewVector = hn::Vec<FewTag>;
constexpr std::int64_t kFewLanes = static_cast<std::int64_t>(hn::MaxLanes(FewTag()));
constexpr int kFewVectors = 2;  // of rows of B at a time: chains enough to hide what an addition takes
constexpr std::int64_t kFewColumns = kFewVectors * kFewLanes;
constexpr std::int64_t kFewDepth = 4;  // of k turned at a time: what 16 bytes hold

/// Columns [j, j + kFewColumns) of C.
template <int kRows>
void few_columns(const MatrixProduct<float>& x, std::int64_t j) {
  const FewTag d;
  const float* b = x.b + j * x.ldb;
  for (std::int64_t begin = 0; begin < x.k; begin += kGemmDepth) {
    const std::int64_t end = std::min(x.k, begin + kGemmDepth);
    FewVector sums[kRows][kFewVectors];
    for (auto& row : sums)
      for (FewVector& sum : row) sum = hn::Zero(d);
    const auto add = [&](std::int64_t p, int vector, FewVector values) HWY_ATTR {
      for (int r = 0; r < kRows; ++r)
        sums[r][vector] = hn::MulAdd(hn::Set(d, x.a[r * x.lda + p]), values, sums[r][vector]);
    };
    std::int64_t p = begin;
    for (; p + kFewDepth <= end; p += kFewDepth)
      for (int vector = 0; vector < kFewVectors; ++vector) {
        FewVector turned[kFewDepth];
        turn_rows(d, b + vector * kFewLanes * x.ldb + p, x.ldb, turned);
        for (std::int64_t q = 0; q < kFewDepth; ++q) add(p + q, vector, turned[q]);
      }
    for (; p < end; ++p)
      for (int vector = 0; vector < kFewVectors; ++vector) {
        HWY_ALIGN float values[kFewLanes];
        for (std::int64_t lane = 0; lane < kFewLanes; ++lane) values[lane] = b[(vector * kFewLanes + lane) * x.ldb + p];
        add(p, vector, hn::Load(d, values));
      }
    const Merge<float> merge{x.alpha, begin == 0 ? x.beta : 1.0F};
    for (int r = 0; r < kRows; ++r)
      for (int vector = 0; vector < kFewVectors; ++vector)
        merge_into(d, merge, sums[r][vector], x.c + r * x.ldc + j + vector * kFewLanes);
  }
}

std::int64_t gemm_few_rows(const Exec& exec, const MatrixProduct<float>& x, int n_threads) {
  const std::int64_t pieces = x.n / kFewColumns;
  // A few pieces a task, so that the threads end together.
  const std::int64_t a_task = std::clamp<std::int64_t>(pieces / (4 * n_threads), 1, 16);
  exec.pool->parallel_for(core::ceil_div(pieces, a_task), [&](std::int64_t task) {
    const std::int64_t end = std::min(pieces, (task + 1) * a_task);
    for (std::int64_t piece = task * a_task; piece < end; ++piece) {
      const std::int64_t j = piece * kFewColumns;
      switch (x.m) {
        case 1:
          few_columns<1>(x, j);
          break;
        case 2:
          few_columns<2>(x, j);
          break;
        case 3:
          few_columns<3>(x, j);
          break;
        default:
          static_assert(kFewRows == 4);
          few_columns<4>(x, j);
      }
    }
  });
  return pieces * kFewColumns;
}

#endif

}  // namespace
}  // namespace voronoi::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace voronoi::kernels {

HWY_EXPORT(gemm_few_rows);

std::int64_t cpu_gemm_few_rows(const Exec& exec, const MatrixProduct<float>& product, int n_threads) {
  return HWY_DYNAMIC_DISPATCH(gemm_few_rows)(exec, product, n_threads);
}

}  // namespace voronoi::kernels
#endif
