#include <algorithm>
#include <climits>

#include "kernels/cuda/search.cuh"
#include "kernels/cuda/vq_family.h"

namespace voronoi::kernels::gpu {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / kWarpSize;
constexpr int kKept = 3;

__host__ __device__ constexpr int scan_tiles(int steps) { return steps <= 2 ? 4 : 2; }
/// Points of a block of the exact search: a centroid's row is read once for all of them.
__host__ __device__ constexpr int exact_points(int steps) { return steps <= 2 ? 8 : 4; }
__host__ __device__ constexpr int chunk_groups(int steps) { return 4 / steps; }
constexpr std::int64_t scan_shared_bytes(int steps) {
  return 2 * chunk_groups(steps) * group_floats(steps, Halves::ready) * static_cast<int>(sizeof(float));
}
static_assert(kWarps * 16 * scan_tiles(1) * 4 * kKept * 4 <= scan_shared_bytes(1));
static_assert(kWarps * 16 * scan_tiles(2) * 4 * kKept * 4 <= scan_shared_bytes(2));
static_assert(kWarps * 16 * scan_tiles(4) * 4 * kKept * 4 <= scan_shared_bytes(4));

/// A warp searches P tiles of 16 points; the block's warps share centroids that pass through shared memory twice
/// buffered. Bound by the minima: 2^37 scores (2M points, 65536 centroids) are 9.5 ms on an H100, their products 7 ms.
/// Of shared memory a pair takes 3 wide loads a warp for 2P products.
template <int kSteps, int P>
__global__ void __launch_bounds__(kThreads, 2)
    scan_points(std::int64_t n, Book book, const float* __restrict__ points, std::int32_t* __restrict__ index,
                float* __restrict__ distance2, unsigned* __restrict__ dropped_count,
                std::int64_t* __restrict__ dropped) {
  constexpr int kChunkGroups = chunk_groups(kSteps), kChunk = kChunkGroups * group_floats(kSteps, Halves::ready);
  auto* stage = dynamic_shared<float>();
  const int lane = lane_id(), g = lane / 4, t = lane % 4;
  const std::int64_t first = (static_cast<std::int64_t>(blockIdx.x) * kWarps + warp_id()) * 16 * P;
  const std::uint32_t id_mask = (1U << book.id_bits) - 1;

  std::uint32_t a[P][kSteps][4];
#pragma unroll
  for (int p = 0; p < P; ++p)
    load_points<kSteps>(a[p], [&](int i, int d) {
      const std::int64_t point = first + 16 * p + i;
      return point < n && d < book.dim ? points[point * book.dim + d] : 0.0F;
    });
  Lowest<P, kKept> lowest;
  lowest.clear();

  const int n_chunks = (book.n_groups + kChunkGroups - 1) / kChunkGroups;
  const auto groups_of = [&](int chunk) {
    const int left = book.n_groups - chunk * kChunkGroups;
    return left < kChunkGroups ? left : kChunkGroups;
  };
  const auto fetch = [&](int chunk) {
    if (chunk < n_chunks) {
      const int groups = groups_of(chunk);
      const float* from = book.fragments + static_cast<std::int64_t>(chunk) * kChunk;
      float* to = stage + chunk % 2 * kChunk;
      for (int i = static_cast<int>(threadIdx.x) * 4; i < groups * group_floats(kSteps, Halves::ready);
           i += kThreads * 4)
        cp_async_16(to + i, from + i);
    }
    cp_async_commit();
  };
  fetch(0);
  for (int chunk = 0; chunk < n_chunks; ++chunk) {
    fetch(chunk + 1);
    cp_async_wait<1>();
    sync_threads();
    const int groups = groups_of(chunk);
    for (int i = 0; i < groups; ++i) {
      float low[2 * P];
      scan_group<kSteps, P, Halves::ready>(stage + chunk % 2 * kChunk + i * group_floats(kSteps, Halves::ready), a,
                                           low);
      lowest.offer(low, static_cast<std::uint32_t>(chunk * kChunkGroups + i), id_mask);
    }
    sync_threads();
  }
  cp_async_wait<0>();

  // Through shared memory, so that the second look is a loop: [16 P points][4 lanes][kKept] a warp.
  float* kept = stage + warp_id() * 16 * P * 4 * kKept;
#pragma unroll
  for (int slot = 0; slot < 2 * P; ++slot)
#pragma unroll
    for (int i = 0; i < kKept; ++i) kept[((slot * 8 + g) * 4 + t) * kKept + i] = lowest.kept[slot][i];
  sync_warp();

  // A quad a point.
  for (int round = 0; round < 2 * P; ++round) {
    const int local = round * 8 + g;
    const std::int64_t i = first + local;
    const bool present = i < n;
    Point<kSteps> point;
#pragma unroll
    for (int d = 0; d < 8 * kSteps; ++d) point.x[d] = present && d < book.dim ? points[i * book.dim + d] : 0.0F;
    const float* mine = kept + (local * 4 + t) * kKept;
    float lowest_score = fminf(mine[0], shuffle_xor(mine[0], 1));
    lowest_score = fminf(lowest_score, shuffle_xor(lowest_score, 2));
    const float bound = lowest_score + 2 * score_error(book, kSteps, squared_norm(point), lowest_score);
    const auto counts = [&](float value) { return present && value <= bound && value < kLargestScore; };
    float best = INFINITY;
    std::int32_t best_index = 0;
    for (int j = 0; j < kKept; ++j) {
      unsigned lanes = ballot(counts(mine[j])) >> (lane - t) & 15U;
      while (ballot(lanes != 0) != 0) {
        if (lanes == 0) continue;
        const int of = lowest_bit(lanes);
        lanes &= lanes - 1;
        const int group = static_cast<int>(float_bits(kept[(local * 4 + of) * kKept + j]) & id_mask);
        for (int r = t; r < 32; r += 4) {
          const int c = lane_centroid(group, of, r);
          if (c >= book.k) continue;
          const float score = exact_score(book.rows + static_cast<std::int64_t>(c) * row_floats(kSteps), point, false);
          if (comes_before(score, c, best, best_index)) {
            best = score;
            best_index = c;
          }
        }
      }
    }
    for (int mask = 1; mask <= 2; mask *= 2) {
      const float other = shuffle_xor(best, mask);
      const std::int32_t other_index = shuffle_xor(best_index, mask);
      if (comes_before(other, other_index, best, best_index)) {
        best = other;
        best_index = other_index;
      }
    }
    const bool may_lack = book.n_groups > kKept && counts(mine[kKept - 1]);
    const unsigned lacking = ballot(may_lack) >> (lane - t) & 15U;
    if (t != 0 || !present) continue;
    if (lacking != 0) {
      dropped[atomic_add(dropped_count, 1U)] = i;
      continue;
    }
    index[i] = best_index;
    if (distance2 != nullptr)
      distance2[i] =
          squared_distance(book.rows + static_cast<std::int64_t>(best_index) * row_floats(kSteps), point, book.dim);
  }
}

/// The m lowest scores of the points listed (list null: of all n) over all centroids, one pass over the book each.
/// Bound by arithmetic, one fused multiply-add a component and score: for points that scan_points leaves, and for
/// tails.
template <int kSteps>
__global__ void __launch_bounds__(kThreads, 1)
    search_all(std::int64_t n, const unsigned* __restrict__ list_count, const std::int64_t* __restrict__ list,
               Book book, const float* __restrict__ points, const std::int32_t* __restrict__ valid_dims, int m,
               std::int32_t* __restrict__ index, float* __restrict__ distance2) {
  constexpr int kDim = 8 * kSteps, kExactPoints = exact_points(kSteps);
  __shared__ float x[kExactPoints][kDim];
  __shared__ int valid[kExactPoints];
  __shared__ float after[kExactPoints], warp_score[kExactPoints][kWarps];
  __shared__ int after_index[kExactPoints], warp_index[kExactPoints][kWarps];
  const int thread = static_cast<int>(threadIdx.x);
  const std::int64_t count = list_count != nullptr ? static_cast<std::int64_t>(*list_count) : n;
  for (std::int64_t begin = static_cast<std::int64_t>(blockIdx.x) * kExactPoints; begin < count;
       begin += static_cast<std::int64_t>(gridDim.x) * kExactPoints) {
    const auto point_at = [&](int q) {
      const std::int64_t at = begin + q < count ? begin + q : count - 1;
      return list != nullptr ? list[at] : at;
    };
    sync_threads();
    if (thread < kExactPoints) {
      const int wanted = valid_dims != nullptr ? valid_dims[point_at(thread)] : book.dim;
      valid[thread] = wanted < 0 ? 0 : wanted > book.dim ? book.dim : wanted;
      after[thread] = -INFINITY;
      after_index[thread] = -1;
    }
    sync_threads();
    for (int i = thread; i < kExactPoints * kDim; i += kThreads) {
      const int q = i / kDim, d = i % kDim;
      x[q][d] = d < valid[q] ? points[point_at(q) * book.dim + d] : 0.0F;
    }
    sync_threads();
    for (int rank = 0; rank < m; ++rank) {
      float best[kExactPoints];
      std::int32_t best_index[kExactPoints];
#pragma unroll
      for (int q = 0; q < kExactPoints; ++q) {
        best[q] = INFINITY;
        best_index[q] = INT_MAX;
      }
      for (int j = thread; j < book.k; j += kThreads) {
        const float* row = book.rows + static_cast<std::int64_t>(j) * row_floats(kSteps);
        float c[kDim];
#pragma unroll
        for (int i = 0; i < kDim / 4; ++i) {
          const float4 part = *reinterpret_cast<const float4*>(row + 4 * i);
          c[4 * i] = part.x;
          c[4 * i + 1] = part.y;
          c[4 * i + 2] = part.z;
          c[4 * i + 3] = part.w;
        }
        const float half = row[kDim];
#pragma unroll
        for (int q = 0; q < kExactPoints; ++q) {
          float score = half;
          if (valid[q] < book.dim) {
            double sum = 0;
#pragma unroll 1
            for (int d = 0; d < valid[q]; ++d) sum += 0.5 * static_cast<double>(row[d]) * static_cast<double>(row[d]);
            score = static_cast<float>(sum);
          }
#pragma unroll
          for (int d = 0; d < kDim; ++d) score = fmaf(-x[q][d], c[d], score);
          if (comes_before(score, j, best[q], best_index[q]) && comes_before(after[q], after_index[q], score, j)) {
            best[q] = score;
            best_index[q] = j;
          }
        }
      }
#pragma unroll
      for (int q = 0; q < kExactPoints; ++q) {
        warp_min_with_index(best[q], best_index[q]);
        if (lane_id() == 0) {
          warp_score[q][warp_id()] = best[q];
          warp_index[q][warp_id()] = best_index[q];
        }
      }
      sync_threads();
      if (thread < kExactPoints) {
        float score = INFINITY;
        int j = INT_MAX;
        for (int warp = 0; warp < kWarps; ++warp)
          if (comes_before(warp_score[thread][warp], warp_index[thread][warp], score, j)) {
            score = warp_score[thread][warp];
            j = warp_index[thread][warp];
          }
        // None is left only where the point is not finite: any valid index will do.
        if (j == INT_MAX) j = rank;
        after[thread] = score;
        after_index[thread] = j;
        if (begin + thread < count) {
          const std::int64_t i = point_at(thread);
          index[i * m + rank] = j;
          if (distance2 != nullptr) {
            Point<kSteps> point;
            for (int d = 0; d < kDim; ++d) point.x[d] = x[thread][d];
            distance2[i] =
                squared_distance(book.rows + static_cast<std::int64_t>(j) * row_floats(kSteps), point, valid[thread]);
          }
        }
      }
      sync_threads();
    }
  }
}

void require_shapes(std::int64_t n, std::int64_t dim, std::int64_t k) {
  VORONOI_REQUIRE(n >= 0 && dim >= 1 && k >= 1, "nearest: n >= 0, dim >= 1, k >= 1");
}

/// Blocks of the exact search for up to n points.
dim3 exact_grid(const Native& open, int steps, std::int64_t n) {
  return grid_of(
      std::min<std::int64_t>(core::ceil_div(n, std::int64_t{exact_points(steps)}), 4 * open.n_multiprocessors));
}

}  // namespace

void nearest(const Exec& exec, std::int64_t n, std::int64_t dim, const float* points, std::int64_t k,
             const float* centroids, const std::int32_t* valid_dims, std::int32_t* index, float* distance2) {
  require_shapes(n, dim, k);
  if (n == 0) return;
  Native& open = native(exec);
  const Books books(open, 1, dim, k, centroids, step_count(dim), Halves::ready, 0);
  const Book& book = books.first();
  with_steps(dim, [&](auto steps) {
    constexpr int kSteps = decltype(steps)::value, kTiles = scan_tiles(kSteps);
    if (valid_dims != nullptr) {
      launch(open, search_all<kSteps>, exact_grid(open, steps, n), dim3(kThreads), 0, n, nullptr, nullptr, book, points,
             valid_dims, 1, index, distance2);
      return;
    }
    const Scratch<unsigned> dropped_count(open, 1);
    const Scratch<std::int64_t> dropped(open, n);
    VORONOI_CUDA_CHECK(cudaMemsetAsync(dropped_count.data(), 0, sizeof(unsigned), open.stream));
    launch(open, scan_points<kSteps, kTiles>, grid_of(core::ceil_div(n, std::int64_t{kWarps * 16 * kTiles})),
           dim3(kThreads), scan_shared_bytes(kSteps), n, book, points, index, distance2, dropped_count.data(),
           dropped.data());
    launch(open, search_all<kSteps>, exact_grid(open, steps, n), dim3(kThreads), 0, n, dropped_count.data(),
           dropped.data(), book, points, nullptr, 1, index, distance2);
  });
}

/// A scan keeps the device busier than lists of centroids in reach would.
void nearest_from(const Exec& exec, std::int64_t n, std::int64_t dim, const float* points, std::int64_t k,
                  const float* centroids, std::int32_t* index, float* distance2) {
  nearest(exec, n, dim, points, k, centroids, nullptr, index, distance2);
}

void nearest_m(const Exec& exec, std::int64_t n, std::int64_t dim, const float* points, std::int64_t k,
               const float* centroids, const std::int32_t* valid_dims, std::int64_t m, std::int32_t* index) {
  require_shapes(n, dim, k);
  VORONOI_REQUIRE(m >= 1 && m <= kMaxNearest && m <= k, "nearest_m: 1 <= m <= min(16, k)");
  if (n == 0) return;
  Native& open = native(exec);
  const Books books(open, 1, dim, k, centroids, step_count(dim), Halves::ready, 0);
  with_steps(dim, [&](auto steps) {
    launch(open, search_all<decltype(steps)::value>, exact_grid(open, steps, n), dim3(kThreads), 0, n, nullptr, nullptr,
           books.first(), points, valid_dims, static_cast<int>(m), index, nullptr);
  });
}

}  // namespace voronoi::kernels::gpu
