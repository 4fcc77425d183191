// The search of one block for the vectors of a column: all warps work on the same few points. Each takes its share of
// the codebook's groups (or, when there are many points, of the points), in shared memory where the book fits, else
// straight from the second-level cache; then a warp a point looks again at what may hold the answer (search.cuh).
#pragma once

#include "kernels/cuda/search.cuh"

namespace voronoi::kernels::gpu {

inline constexpr int kColumnThreads = 512, kColumnWarps = kColumnThreads / kWarpSize;
inline constexpr int kColumnKept = 4;
inline constexpr int kPointFloats = kColumnWarps * 4 * kColumnKept;  ///< kept scores of one of 16 P points

/// Shared memory of a search, in which P tiles of 16 points are searched together.
template <int P>
struct SearchSpace {
  static constexpr int kFlagged = 16 * P * kPointFloats, kCount = kFlagged + 16 * P * kColumnWarps,
                       kScores = kCount + 4, kIndices = kScores + kColumnWarps, kFloats = kIndices + kColumnWarps;
  float* base;

  __device__ __forceinline__ float* kept() const { return base; }  ///< [16 P kPointFloats]
  /// Points left to the exact search [16 P kColumnWarps], and how many; 0 between searches.
  __device__ __forceinline__ int* flagged() const { return reinterpret_cast<int*>(base + kFlagged); }
  __device__ __forceinline__ int* n_flagged() const { return reinterpret_cast<int*>(base + kCount); }
  __device__ __forceinline__ float* warp_score() const { return base + kScores; }  ///< [kColumnWarps]
  __device__ __forceinline__ int* warp_index() const { return reinterpret_cast<int*>(base + kIndices); }
};

/// Points of a search, in shared memory: vector i * per + j is one of `per` variants of vector i.
struct SearchPoints {
  const float* x;  ///< [count, dim]
  int count;
  int per;
  int tail, valid;  ///< vector of which only `valid` components take part; -1: none
};

template <int kSteps>
__device__ __forceinline__ Point<kSteps> point_of(const SearchPoints& points, int dim, int i) {
  const int valid = i / points.per == points.tail ? points.valid : dim;
  Point<kSteps> point;
#pragma unroll
  for (int d = 0; d < 8 * kSteps; ++d) point.x[d] = d < valid ? points.x[i * dim + d] : 0.0F;
  return point;
}

/// The m-th lowest of `count` values, lane l holding values l and l + 32; infinity when there are fewer.
__device__ __forceinline__ float mth_lowest(float first, float second, int count, int m) {
  const int lane = lane_id();
  int rank = 0, second_rank = 0;
  for (int j = 0; j < count; ++j) {
    const float other = shuffle(j < kWarpSize ? first : second, j % kWarpSize);
    rank += comes_before(other, j, first, lane) ? 1 : 0;
    second_rank += comes_before(other, j, second, lane + kWarpSize) ? 1 : 0;
  }
  const unsigned holds = ballot(lane < count && rank == m - 1);
  const unsigned second_holds = ballot(lane + kWarpSize < count && second_rank == m - 1);
  const float value = shuffle(first, holds != 0 ? lowest_bit(holds) : 0);
  const float second_value = shuffle(second, second_holds != 0 ? lowest_bit(second_holds) : 0);
  return holds != 0 ? value : second_holds != 0 ? second_value : INFINITY;
}

/// All centroids for the flagged points, by the whole block.
template <int kSteps, int P>
__device__ void search_flagged(const SearchSpace<P>& space, const Book& book, const SearchPoints& points, int m,
                               int* found, float* distance2) {
  const int n_flagged = *space.n_flagged();
  for (int f = 0; f < n_flagged; ++f) {
    const int i = space.flagged()[f];
    const bool tail = i / points.per == points.tail;
    const Point<kSteps> point = point_of<kSteps>(points, book.dim, i);
    float after = -INFINITY;
    int after_index = -1;
    for (int rank = 0; rank < m; ++rank) {
      float best = INFINITY;
      std::int32_t best_index = 0x7FFFFFFF;
      for (int j = static_cast<int>(threadIdx.x); j < book.k; j += kColumnThreads) {
        const float score = exact_score(book.rows + static_cast<std::int64_t>(j) * row_floats(kSteps), point, tail);
        if (comes_before(score, j, best, best_index) && comes_before(after, after_index, score, j)) {
          best = score;
          best_index = j;
        }
      }
      warp_min_with_index(best, best_index);
      if (lane_id() == 0) {
        space.warp_score()[warp_id()] = best;
        space.warp_index()[warp_id()] = best_index;
      }
      sync_threads();
      best = lane_id() < kColumnWarps ? space.warp_score()[lane_id()] : INFINITY;
      best_index = lane_id() < kColumnWarps ? space.warp_index()[lane_id()] : 0x7FFFFFFF;
      warp_min_with_index(best, best_index);
      // None is left only where the point is not finite: any valid index will do.
      after = best;
      after_index = best_index != 0x7FFFFFFF ? best_index : rank;
      if (threadIdx.x == 0) {
        found[i * m + rank] = after_index;
        if (distance2 != nullptr)
          distance2[i] = squared_distance(book.rows + static_cast<std::int64_t>(after_index) * row_floats(kSteps),
                                          point, tail ? points.valid : book.dim);
      }
      sync_threads();
    }
  }
  if (threadIdx.x == 0) *space.n_flagged() = 0;
  sync_threads();
}

/// Second look of one warp at point i: `kept` its scores from n_cells lanes, each of which saw cell_groups(cell)
/// groups.
template <int kSteps, int P, class CellGroups>
__device__ __forceinline__ void look_again(const SearchSpace<P>& space, const Book& book, const SearchPoints& points,
                                           int i, float* kept, int region, int n_cells, const CellGroups& cell_groups,
                                           int m, int* found, float* distance2) {
  const int lane = lane_id();
  const std::uint32_t id_mask = (1U << book.id_bits) - 1;
  float value[2][kColumnKept];
#pragma unroll
  for (int half = 0; half < 2; ++half)
#pragma unroll
    for (int j = 0; j < kColumnKept; ++j) {
      const int cell = lane + half * kWarpSize;
      value[half][j] = cell < n_cells ? kept[cell * kColumnKept + j] : INFINITY;
    }
  sync_warp();
  const Point<kSteps> point = point_of<kSteps>(points, book.dim, i);
  // No fewer than m centroids score this low, up to the error.
  const float level =
      m == 1 ? warp_min(fminf(value[0][0], value[1][0])) : mth_lowest(value[0][0], value[1][0], n_cells, m);
  const float error = score_error(book, kSteps, squared_norm(point), level), bound = level + 2 * error;
  const auto counts = [&](float score) { return score <= bound && score < kLargestScore; };
  bool may_lack = false;
#pragma unroll
  for (int half = 0; half < 2; ++half)
    may_lack = may_lack || (counts(value[half][kColumnKept - 1]) && cell_groups(lane + half * kWarpSize) > kColumnKept);

  float best = INFINITY;
  std::int32_t best_index = 0;
  // For m > 1 the scores that may be among the m lowest take the place of what was kept.
  const int room = region / 2;
  auto* list_index = reinterpret_cast<std::int32_t*>(kept + room);
  int listed = 0;
#pragma unroll
  for (int half = 0; half < 2; ++half)
#pragma unroll
    for (int j = 0; j < kColumnKept; ++j) {
      unsigned lanes = ballot(counts(value[half][j]));
      while (lanes != 0) {
        const int of = lowest_bit(lanes);
        lanes &= lanes - 1;
        const int group = static_cast<int>(shuffle(float_bits(value[half][j]), of) & id_mask);
        const int c = lane_centroid(group, of % 4, lane);
        float score = INFINITY;
        if (c < book.k)
          score = exact_score(book.rows + static_cast<std::int64_t>(c) * row_floats(kSteps), point, false);
        if (m == 1) {
          if (comes_before(score, c, best, best_index)) {
            best = score;
            best_index = c;
          }
          continue;
        }
        const bool lists = c < book.k && score <= level + error;
        const unsigned listing = ballot(lists);
        const int place = listed + count_bits(listing & ((1U << lane) - 1));
        if (lists && place < room) {
          kept[place] = score;
          list_index[place] = c;
        }
        listed += count_bits(listing);
      }
    }
  if (ballot(may_lack) != 0 || listed > room) {
    if (lane == 0) space.flagged()[atomic_add(space.n_flagged(), 1)] = i;
    return;
  }
  if (m == 1) {
    warp_min_with_index(best, best_index);
    if (lane != 0) return;
    found[i] = best_index;
    if (distance2 != nullptr)
      distance2[i] =
          squared_distance(book.rows + static_cast<std::int64_t>(best_index) * row_floats(kSteps), point, book.dim);
    return;
  }
  // Fewer than m only where the point is not finite: any valid indices will do.
  if (listed < m && lane < m) found[i * m + lane] = lane;
  sync_warp();
  for (int entry = lane; entry < listed; entry += kWarpSize) {
    int rank = 0;
    for (int other = 0; other < listed; ++other)
      rank += comes_before(kept[other], list_index[other], kept[entry], list_index[entry]) ? 1 : 0;
    if (rank < m) found[i * m + rank] = list_index[entry];
  }
}

/// found [count, m] and, for m = 1, distance2 [count] (may be null); fragments: the book's, or their copy in shared
/// memory. Collective over the block; the points are ready before, the results after.
template <int kSteps, int P>
__device__ __forceinline__ void search_column(const SearchSpace<P>& space, const Book& book,
                                              const float* shared_fragments, const SearchPoints& points, int m,
                                              int* found, float* distance2) {
  const int warp = warp_id(), lane = lane_id(), n_tiles = (points.count + 16 * P - 1) / (16 * P);
  const std::uint32_t id_mask = (1U << book.id_bits) - 1;
  for (int first = 0; first < n_tiles; first += kColumnWarps) {
    const int tiles = n_tiles - first < kColumnWarps ? n_tiles - first : kColumnWarps;
    int shares = kColumnWarps / tiles;
    if (shares > book.n_groups) shares = book.n_groups;
    const int region = kPointFloats / tiles / 4 * 4;
    const int tile = warp / shares, share = warp % shares;
    if (tile < tiles) {
      std::uint32_t a[P][kSteps][4];
#pragma unroll
      for (int p = 0; p < P; ++p)
        load_points<kSteps>(a[p], [&](int row, int d) {
          const int i = ((first + tile) * P + p) * 16 + row;
          return i < points.count && d < book.dim ? points.x[i * book.dim + d] : 0.0F;
        });
      Lowest<P, kColumnKept> lowest;
      lowest.clear();
      for (int group = share; group < book.n_groups; group += shares) {
        float low[2 * P];
        const std::int64_t at = static_cast<std::int64_t>(group) * group_floats(kSteps, Halves::compact);
        if (shared_fragments != nullptr)
          scan_group<kSteps, P, Halves::compact>(shared_fragments + at, a, low);
        else
          scan_group<kSteps, P, Halves::compact>(book.fragments + at, a, low);
        lowest.offer(low, static_cast<std::uint32_t>(group), id_mask);
      }
#pragma unroll
      for (int slot = 0; slot < 2 * P; ++slot) {
        float* kept =
            space.kept() + ((tile * 2 * P + slot) * 8 + lane / 4) * region + (share * 4 + lane % 4) * kColumnKept;
#pragma unroll
        for (int j = 0; j < kColumnKept; ++j) kept[j] = lowest.kept[slot][j];
      }
    }
    sync_threads();
    const auto cell_groups = [&](int cell) { return (book.n_groups - cell / 4 + shares - 1) / shares; };
    for (int local = warp; local < tiles * 16 * P; local += kColumnWarps) {
      const int i = first * 16 * P + local;
      if (i >= points.count) break;
      if (i / points.per == points.tail) {
        if (lane == 0) space.flagged()[atomic_add(space.n_flagged(), 1)] = i;
        continue;
      }
      look_again<kSteps, P>(space, book, points, i, space.kept() + local * region, region, 4 * shares, cell_groups, m,
                            found, distance2);
    }
    sync_threads();
    search_flagged<kSteps, P>(space, book, points, m, found, distance2);
  }
}

}  // namespace voronoi::kernels::gpu
