// Packed panels and a register tile, after Goto and van de Geijn 2008: B is packed once into shared panels, then each
// task packs a tile of rows of A and walks the panels.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/gemm.cpp"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
// After highway.h, which sets up the target.
#include <algorithm>

#include "core/types.h"
#include "kernels/cpu/gemm.h"
#include "kernels/cpu/gemm_few_rows.h"
#include "kernels/cpu/micro_kernel-inl.h"
#include "kernels/cpu/scratch.h"
#include "kernels/linalg.h"

HWY_BEFORE_NAMESPACE();
namespace voronoi::kernels::HWY_NAMESPACE {
namespace {

// Rows of A a task packs at a time: with kGemmDepth columns they fill a small part of the second-level cache.
constexpr std::int64_t kTileRows = kMicroRows * (112 / kMicroRows);
// Columns of C a task works on: its part of C stays in the second-level cache from one depth to the next.
constexpr std::int64_t kTileColumns = 768;
// Elements of B packed at a time: they fit a last-level cache.
constexpr std::int64_t kSlabElements = 2 << 20;
// Depth of op(B) packed at a time: a slab of it has columns enough for what packing A costs.
constexpr std::int64_t kSlabDepth = 16 * kGemmDepth;
constexpr std::int64_t kGramColumns = 256;

template <class T>
constexpr std::int64_t kPanel = kMicroColumns<T>;

/// A slab of op(B), [columns, k]: for each depth of k, its panels [panel][depth][kPanel].
template <class T>
class PackedSlab {
 public:
  PackedSlab(std::int64_t max_columns, std::int64_t k)
      : k_(k), memory_(core::ceil_div(max_columns, kPanel<T>) * kPanel<T> * k) {}

  void fill(const Exec& exec, bool along_k, std::int64_t columns, const T* b, std::int64_t ldb) {
    padded_ = core::ceil_div(columns, kPanel<T>) * kPanel<T>;
    exec.pool->parallel_for(padded_ / kPanel<T>, [&](std::int64_t index) {
      const std::int64_t j = index * kPanel<T>;
      for (std::int64_t p = 0; p < k_; p += kGemmDepth) {
        const std::int64_t depth = std::min(kGemmDepth, k_ - p), count = std::min(kPanel<T>, columns - j);
        if (along_k)
          pack_rows<kPanel<T>>(depth, count, b + j * ldb + p, ldb, memory_.data() + offset(p, j));
        else
          pack_columns<kPanel<T>>(depth, count, b + p * ldb + j, ldb, memory_.data() + offset(p, j));
      }
    });
  }
  const T* panel(std::int64_t p, std::int64_t j) const { return memory_.data() + offset(p, j); }

 private:
  std::int64_t offset(std::int64_t p, std::int64_t j) const { return p * padded_ + j * std::min(kGemmDepth, k_ - p); }
  std::int64_t k_, padded_ = 0;
  Scratch<T> memory_;
};

/// `rows` rows of op(A), `depth` of k: element (i, p) at a[i * lda + p], or at a[p * lda + i] when interleaved.
/// Interleaved tiles stand kMicroRows rows after another, the others row by row.
template <bool kInterleaved, class T>
void pack_tile(std::int64_t rows, std::int64_t depth, const T* a, std::int64_t lda, T* packed) {
  if constexpr (kInterleaved) {
    for (std::int64_t i = 0; i < rows; i += kMicroRows)
      pack_columns<kMicroRows>(depth, std::min<std::int64_t>(kMicroRows, rows - i), a + i, lda, packed + i * kRowLd);
  } else {
    for (std::int64_t i = 0; i < rows; ++i) std::copy_n(a + i * lda, depth, packed + i * kRowLd);
    // Rows of zeros up to a whole register tile.
    for (std::int64_t i = rows; i % kMicroRows != 0; ++i) std::fill_n(packed + i * kRowLd, depth, T{0});
  }
}

/// C [rows, columns] of a packed tile of A and panels of B, `depth` deep. Panels wholly right of the diagonal are left
/// out, the diagonal being where column - row = diagonal (pass `columns` for none).
template <bool kInterleaved, class T>
HWY_NOINLINE void multiply_tile(std::int64_t rows, std::int64_t columns, std::int64_t depth, const T* a, const T* b,
                                Merge<T> merge, T* c, std::int64_t ldc, std::int64_t diagonal) {
  for (std::int64_t j = 0; j < columns; j += kPanel<T>, b += depth * kPanel<T>) {
    for (std::int64_t i = 0; i < rows; i += kMicroRows) {
      const std::int64_t in_rows = std::min<std::int64_t>(kMicroRows, rows - i),
                         in_columns = std::min(kPanel<T>, columns - j);
      if (j > i + in_rows - 1 + diagonal) continue;
      T* target = c + i * ldc + j;
      if (in_rows == kMicroRows && in_columns == kPanel<T>) {
        micro_tile<T, kInterleaved>(depth, a + i * kRowLd, b, target, ldc, merge);
        continue;
      }
      alignas(64) T edge[kMicroRows * kPanel<T>] = {};
      if (merge.beta != T{0})
        for (std::int64_t r = 0; r < in_rows; ++r) std::copy_n(target + r * ldc, in_columns, edge + r * kPanel<T>);
      micro_tile<T, kInterleaved>(depth, a + i * kRowLd, b, edge, kPanel<T>, merge);
      for (std::int64_t r = 0; r < in_rows; ++r) std::copy_n(edge + r * kPanel<T>, in_columns, target + r * ldc);
    }
  }
}

template <class T>
void scale(const MatrixProduct<T>& x) {
  for (std::int64_t i = 0; i < x.m; ++i)
    for (std::int64_t j = 0; j < x.n; ++j) x.c[i * x.ldc + j] = x.beta == T{0} ? T{0} : x.beta * x.c[i * x.ldc + j];
}

template <class T>
void gemm(const Exec& exec, const MatrixProduct<T>& x, Part part, int n_threads) {
  if (x.m == 0 || x.n == 0) return;
  if (x.k == 0) return scale(x);
  if (x.k > kSlabDepth) {
    // Cut where the chains are cut anyway.
    for (std::int64_t p = 0; p < x.k; p += kSlabDepth) {
      MatrixProduct<T> piece = x;
      piece.k = std::min(kSlabDepth, x.k - p);
      piece.a += x.transpose_a ? p * x.lda : p;
      piece.b += x.transpose_b ? p : p * x.ldb;
      if (p > 0) piece.beta = T{1};
      gemm(exec, piece, part, n_threads);
    }
    return;
  }
  const std::int64_t panels = core::ceil_div(x.n, kPanel<T>);
  const std::int64_t slab_panels = std::clamp<std::int64_t>(kSlabElements / (x.k * kPanel<T>), 1, panels);
  const std::int64_t row_tiles = core::ceil_div(x.m, kTileRows);
  PackedSlab<T> packed(slab_panels * kPanel<T>, x.k);
  for (std::int64_t slab = 0; slab < x.n; slab += slab_panels * kPanel<T>) {
    const std::int64_t slab_columns = std::min(slab_panels * kPanel<T>, x.n - slab);
    if (part == Part::lower && slab >= x.m) break;
    packed.fill(exec, x.transpose_b, slab_columns, x.transpose_b ? x.b + slab * x.ldb : x.b + slab, x.ldb);
    // Few tiles of rows for many threads: the columns are divided further (the bits do not depend on it).
    const std::int64_t wanted = std::max(core::ceil_div(slab_columns, kTileColumns),
                                         n_threads == 1 ? 1 : core::ceil_div(4 * n_threads, row_tiles));
    const std::int64_t chunk = core::ceil_div(core::ceil_div(slab_columns, kPanel<T>), wanted) * kPanel<T>;
    const std::int64_t chunks = core::ceil_div(slab_columns, chunk);
    exec.pool->parallel_for(row_tiles * chunks, [&](std::int64_t task) {
      // Lower tiles of rows have the most columns when only the lower part is wanted: first.
      const std::int64_t i = (row_tiles - 1 - task / chunks) * kTileRows, j = task % chunks * chunk;
      const std::int64_t rows = std::min(kTileRows, x.m - i), columns = std::min(chunk, slab_columns - j);
      const std::int64_t diagonal = part == Part::lower ? i - slab - j : columns;
      if (diagonal + rows <= 0) return;
      Scratch<T> tile(kTileRows * kRowLd);
      for (std::int64_t p = 0; p < x.k; p += kGemmDepth) {
        const std::int64_t depth = std::min(kGemmDepth, x.k - p);
        const Merge<T> merge{x.alpha, p == 0 ? x.beta : T{1}};
        T* target = x.c + i * x.ldc + slab + j;
        if (x.transpose_a) {
          pack_tile<true>(rows, depth, x.a + p * x.lda + i, x.lda, tile.data());
          multiply_tile<true, T>(rows, columns, depth, tile.data(), packed.panel(p, j), merge, target, x.ldc, diagonal);
        } else {
          pack_tile<false>(rows, depth, x.a + i * x.lda + p, x.lda, tile.data());
          multiply_tile<false, T>(rows, columns, depth, tile.data(), packed.panel(p, j), merge, target, x.ldc,
                                  diagonal);
        }
      }
    });
  }
}

void gemm_f32(const Exec& exec, const MatrixProduct<float>& product, Part part, int n_threads) {
  gemm(exec, product, part, n_threads);
}
void gemm_f64(const Exec& exec, const MatrixProduct<double>& product, Part part, int n_threads) {
  gemm(exec, product, part, n_threads);
}

void gram_accumulate(const Exec& exec, std::int64_t n_rows, std::int64_t n, const float* x, std::int64_t ldx,
                     double* sum) {
  if (n_rows == 0 || n == 0) return;
  const std::int64_t max_k = std::min(kCpuGramRows, n_rows);
  const std::int64_t slab_columns =
      std::clamp(kCpuGramValues / max_k / kGramColumns, std::int64_t{1}, core::ceil_div(n, kGramColumns)) *
      kGramColumns;
  const std::int64_t row_tiles = core::ceil_div(n, kTileRows);
  for (std::int64_t first = 0; first < n_rows; first += kCpuGramRows) {
    const std::int64_t k = std::min(kCpuGramRows, n_rows - first);
    const float* rows_of_x = x + first * ldx;
    PackedSlab<float> packed(slab_columns, k);
    for (std::int64_t slab = 0; slab < n; slab += slab_columns) {
      const std::int64_t columns_here = std::min(slab_columns, n - slab),
                         chunks = core::ceil_div(columns_here, kGramColumns);
      packed.fill(exec, false, columns_here, rows_of_x + slab, ldx);
      exec.pool->parallel_for(row_tiles * chunks, [&](std::int64_t task) {
        const std::int64_t i = (row_tiles - 1 - task / chunks) * kTileRows, j = task % chunks * kGramColumns;
        const std::int64_t rows = std::min(kTileRows, n - i), columns = std::min(kGramColumns, columns_here - j);
        const std::int64_t diagonal = i - slab - j;
        if (diagonal + rows <= 0) return;
        Scratch<float> tile(kTileRows * kRowLd), product(kTileRows * kGramColumns);
        for (std::int64_t p = 0; p < k; p += kGemmDepth) {
          const std::int64_t depth = std::min(kGemmDepth, k - p);
          pack_tile<true>(rows, depth, rows_of_x + p * ldx + i, ldx, tile.data());
          multiply_tile<true, float>(rows, columns, depth, tile.data(), packed.panel(p, j),
                                     {1.0F, p == 0 ? 0.0F : 1.0F}, product.data(), kGramColumns, diagonal);
        }
        for (std::int64_t r = 0; r < rows; ++r) {
          const std::int64_t last = std::min(columns, r + diagonal + 1);
          double* target = sum + (i + r) * (i + r + 1) / 2 + slab + j;
          const float* source = product.data() + r * kGramColumns;
          for (std::int64_t c = 0; c < last; ++c) target[c] += static_cast<double>(source[c]);
        }
      });
    }
  }
}

}  // namespace
}  // namespace voronoi::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace voronoi::kernels {

HWY_EXPORT(gemm_f32);
HWY_EXPORT(gemm_f64);
HWY_EXPORT(gram_accumulate);

void cpu_gemm(const Exec& exec, const MatrixProduct<float>& product, Part part, int n_threads) {
  if (n_threads == 0) n_threads = exec.pool->size();
  MatrixProduct<float> rest = product;
  if (product.m <= kFewRows && product.k > 0 && !product.transpose_a && product.transpose_b && part == Part::all) {
    const std::int64_t done = cpu_gemm_few_rows(exec, product, n_threads);
    rest.n -= done;
    rest.b += done * product.ldb;
    rest.c += done;
  }
  HWY_DYNAMIC_DISPATCH(gemm_f32)(exec, rest, part, n_threads);
}
void cpu_gemm(const Exec& exec, const MatrixProduct<double>& product, Part part, int n_threads) {
  HWY_DYNAMIC_DISPATCH(gemm_f64)(exec, product, part, n_threads == 0 ? exec.pool->size() : n_threads);
}

void cpu_gram_accumulate(const Exec& exec, std::int64_t n_rows, std::int64_t n, const float* x, std::int64_t ldx,
                         double* sum) {
  HWY_DYNAMIC_DISPATCH(gram_accumulate)(exec, n_rows, n, x, ldx, sum);
}

}  // namespace voronoi::kernels
#endif
