// Entry points: centroids are packed into panels once a call, points are dealt to the pool in fixed blocks.
#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "core/error.h"
#include "core/types.h"
#include "kernels/cpu/packed_panels.h"
#include "kernels/cpu/scratch.h"
#include "kernels/cpu/vq_near.h"
#include "kernels/cpu/vq_simd.h"
#include "kernels/kernels.h"

namespace voronoi::kernels {
namespace {

using vq::kBlockPoints;
using vq::kPanel;
using vq::PackedPanels;

void require_shapes(std::int64_t n, std::int64_t dim, std::int64_t k) {
  VORONOI_REQUIRE(n >= 0 && dim >= 1 && k >= 1, "nearest: n >= 0, dim >= 1, k >= 1");
  VORONOI_REQUIRE(k <= std::numeric_limits<std::int32_t>::max() - kPanel, "nearest: centroid indices must fit 32 bits");
}

// body(panels, n, points, index [n, m], distance2) on every block of points that share a number of valid dimensions.
template <class Body>
void for_blocks(const Exec& exec, std::int64_t n, std::int64_t dim, const float* points, std::int64_t k,
                const float* centroids, const std::int32_t* valid_dims, std::int64_t m, std::int32_t* index,
                float* distance2, const Body& body) {
  require_shapes(n, dim, k);
  if (n == 0) return;
  if (valid_dims == nullptr || std::all_of(valid_dims, valid_dims + n, [dim](std::int32_t v) { return v == dim; })) {
    const PackedPanels panels(dim, dim, k, centroids);
    exec.pool->parallel_for(core::ceil_div(n, kBlockPoints), [&](std::int64_t block) {
      const std::int64_t begin = block * kBlockPoints;
      body(panels.view(), std::min(kBlockPoints, n - begin), points + begin * dim, index + begin * m,
           distance2 != nullptr ? distance2 + begin : nullptr);
    });
    return;
  }
  std::vector<std::vector<std::int64_t>> members(static_cast<std::size_t>(dim + 1));
  for (std::int64_t i = 0; i < n; ++i) {
    VORONOI_REQUIRE(valid_dims[i] >= 0 && valid_dims[i] <= dim, "nearest: valid_dims outside [0, dim]");
    members[static_cast<std::size_t>(valid_dims[i])].push_back(i);
  }
  for (std::int64_t valid = 0; valid <= dim; ++valid) {
    const std::vector<std::int64_t>& of = members[static_cast<std::size_t>(valid)];
    if (of.empty()) continue;
    const PackedPanels panels(dim, valid, k, centroids);
    exec.pool->parallel_for(
        core::ceil_div(static_cast<std::int64_t>(of.size()), kBlockPoints), [&](std::int64_t block) {
          const std::int64_t begin = block * kBlockPoints;
          const std::int64_t count = std::min(kBlockPoints, static_cast<std::int64_t>(of.size()) - begin);
          std::vector<float> gathered(static_cast<std::size_t>(count * dim), 0.0F),
              gaps(static_cast<std::size_t>(count));
          std::vector<std::int32_t> found(static_cast<std::size_t>(count * m));
          const std::int64_t* id = of.data() + begin;
          for (std::int64_t i = 0; i < count; ++i) std::copy_n(points + id[i] * dim, valid, gathered.data() + i * dim);
          body(panels.view(), count, gathered.data(), found.data(), nullptr);
          for (std::int64_t i = 0; i < count; ++i) {
            std::copy_n(found.data() + i * m, m, index + id[i] * m);
            if (distance2 == nullptr) continue;
            const float* c = centroids + static_cast<std::int64_t>(found[static_cast<std::size_t>(i)]) * dim;
            distance2[id[i]] = vq::squared_distance(valid, points + id[i] * dim, c);
          }
        });
  }
}

void nearest(const Exec& exec, std::int64_t n, std::int64_t dim, const float* points, std::int64_t k,
             const float* centroids, const std::int32_t* valid_dims, std::int32_t* index, float* distance2) {
  for_blocks(exec, n, dim, points, k, centroids, valid_dims, 1, index, distance2, vq::nearest_block);
}

void nearest_m(const Exec& exec, std::int64_t n, std::int64_t dim, const float* points, std::int64_t k,
               const float* centroids, const std::int32_t* valid_dims, std::int64_t m, std::int32_t* index) {
  VORONOI_REQUIRE(m >= 1 && m <= kMaxNearest && m <= k, "nearest_m: 1 <= m <= min(16, k)");
  for_blocks(exec, n, dim, points, k, centroids, valid_dims, m, index, nullptr,
             [m](const vq::Panels& panels, std::int64_t count, const float* block, std::int32_t* found, float*) {
               vq::nearest_m_block(panels, count, block, m, found);
             });
}

void nearest_from(const Exec& exec, std::int64_t n, std::int64_t dim, const float* points, std::int64_t k,
                  const float* centroids, std::int32_t* index, float* distance2) {
  // Fewer points a centroid, or fewer centroids, do not pay for the lists.
  constexpr std::int64_t kLeastPoints = 4, kLeastCentroids = 64;
  // Points of a block lie near each other in memory; it has as many as make the lists cost a panel of scores a point.
  constexpr std::int64_t kLeastBlock = 16384, kLeastCells = 512, kRanges = 64;
  if (dim > vq::kMostNearDims || k < kLeastCentroids || n < kLeastPoints * k)
    return nearest(exec, n, dim, points, k, centroids, nullptr, index, distance2);
  require_shapes(n, dim, k);
  const PackedPanels panels(dim, dim, k, centroids);
  Scratch<float> rows(k * (dim + 1));
  for (std::int64_t j = 0; j < k; ++j) {
    std::copy_n(centroids + j * dim, dim, rows.data() + j * (dim + 1));
    rows.data()[j * (dim + 1) + dim] = panels.view().panel(j / kPanel)[dim * kPanel + j % kPanel];
  }
  const vq::NearBook book{panels.view(), rows.data()};
  const std::int64_t block = std::max(kLeastBlock, k * k / kPanel), blocks = core::ceil_div(n, block),
                     cells = std::max(kLeastCells, core::ceil_div(k, kRanges)), ranges = core::ceil_div(k, cells);
  // Beside what the cells are read from: another thread may be at it.
  Scratch<std::int32_t> found(n);
  exec.pool->parallel_for(blocks * ranges, [&](std::int64_t task) {
    const std::int64_t begin = task / ranges * block, first = task % ranges * cells;
    vq::search_near(book, {begin, std::min(n, begin + block), first, std::min(k, first + cells)}, points, index,
                    found.data(), distance2);
  });
  exec.pool->parallel_for(core::ceil_div(n, kLeastBlock), [&](std::int64_t piece) {
    const std::int64_t begin = piece * kLeastBlock, count = std::min(kLeastBlock, n - begin);
    VORONOI_REQUIRE(std::all_of(index + begin, index + begin + count, [k](std::int32_t j) { return j >= 0 && j < k; }),
                    "nearest_from: a point comes with no centroid of the codebook");
    std::copy_n(found.data() + begin, count, index + begin);
  });
}

constexpr std::int64_t kCombineBlock = 8192;  // sums

/// Part of a chunk whose sums are made by one thread.
struct Piece {
  std::int64_t chunk = 0, begin = 0, end = 0;
};

void sum_piece(const Piece& piece, std::int64_t dim, const float* points, const float* weights,
               const std::int32_t* index, const float* distance2, std::int64_t k, double* sums) {
  VORONOI_REQUIRE(std::all_of(index + piece.begin, index + piece.end, [k](std::int32_t j) { return j >= 0 && j < k; }),
                  "centroid_sums: index outside the codebook");
  std::fill_n(sums, k * (dim + 1), 0.0);
  vq::centroid_sums(piece.end - piece.begin, dim, points + piece.begin * dim, weights + piece.begin,
                    index + piece.begin, sums, sums + k * dim);
  const auto error = [&](std::int64_t i) {
    return static_cast<double>(weights[i]) * static_cast<double>(distance2[i]);
  };
  // Four running sums: one would wait for each addition.
  double objective[4] = {};
  std::int64_t i = piece.begin;
  for (; i + 4 <= piece.end; i += 4)
    for (std::int64_t lane = 0; lane < 4; ++lane) objective[lane] += error(i + lane);
  for (; i < piece.end; ++i) objective[0] += error(i);
  sums[k * (dim + 1)] = (objective[0] + objective[1]) + (objective[2] + objective[3]);
}

void centroid_sums(const Exec& exec, std::int64_t n_chunks, const std::int64_t* chunk_begin, std::int64_t dim,
                   const float* points, const float* weights, const std::int32_t* index, const float* distance2,
                   std::int64_t k, bool combined, double* sums) {
  VORONOI_REQUIRE(n_chunks >= 0 && dim >= 1 && k >= 1, "centroid_sums: n_chunks >= 0, dim >= 1, k >= 1");
  const std::int64_t size = k * (dim + 1) + 1;
  std::vector<Piece> pieces;
  std::vector<std::int64_t> first{0};  // piece of each chunk
  for (std::int64_t c = 0; c < n_chunks; ++c) {
    const std::int64_t begin = chunk_begin[c], n = chunk_begin[c + 1] - begin;
    const std::int64_t count = cpu_sum_pieces(n, k);
    for (std::int64_t p = 0; p < count; ++p) pieces.push_back({c, begin + n * p / count, begin + n * (p + 1) / count});
    first.push_back(static_cast<std::int64_t>(pieces.size()));
  }
  Scratch<double> parts(static_cast<std::int64_t>(pieces.size()) * size);
  exec.pool->parallel_for(static_cast<std::int64_t>(pieces.size()), [&](std::int64_t p) {
    sum_piece(pieces[static_cast<std::size_t>(p)], dim, points, weights, index, distance2, k, parts.data() + p * size);
  });
  exec.pool->parallel_for(core::ceil_div(size, kCombineBlock), [&](std::int64_t block) {
    const std::int64_t begin = block * kCombineBlock, end = std::min(size, begin + kCombineBlock);
    if (combined) std::fill(sums + begin, sums + end, 0.0);
    for (std::int64_t c = 0; c < n_chunks; ++c) {
      double* whole = parts.data() + first[static_cast<std::size_t>(c)] * size;
      for (std::int64_t p = first[static_cast<std::size_t>(c)] + 1; p < first[static_cast<std::size_t>(c + 1)]; ++p)
        for (std::int64_t i = begin; i < end; ++i) whole[i] += parts.data()[p * size + i];
      if (combined)
        for (std::int64_t i = begin; i < end; ++i) sums[i] += whole[i];
      else
        std::copy(whole + begin, whole + end, sums + c * size + begin);
    }
  });
}

void potentials(const Exec& exec, std::int64_t n, std::int64_t dim, const float* columns, const float* weights,
                float* distance2, std::int64_t n_candidates, const float* candidates, bool update, double* block_sums) {
  VORONOI_REQUIRE(n >= 0 && dim >= 1 && n_candidates >= 1, "potentials: n >= 0, dim >= 1, a candidate");
  VORONOI_REQUIRE(!update || n_candidates == 1, "potentials: one candidate at a time can become a seed");
  exec.pool->parallel_for(core::ceil_div(n, kPotentialBlock), [&](std::int64_t block) {
    const std::int64_t begin = block * kPotentialBlock;
    vq::potentials_block(std::min(kPotentialBlock, n - begin), dim, columns + begin, n, weights + begin,
                         distance2 + begin, n_candidates, candidates, update, block_sums + block * n_candidates);
  });
}

void lower_potentials(const Exec& exec, std::int64_t n, const float* weights, const float* other, float* distance2,
                      double* block_sums) {
  exec.pool->parallel_for(core::ceil_div(n, kPotentialBlock), [&](std::int64_t block) {
    double sum = 0;
    for (std::int64_t i = block * kPotentialBlock; i < std::min(n, (block + 1) * kPotentialBlock); ++i) {
      distance2[i] = std::min(distance2[i], other[i]);
      sum += static_cast<double>(weights[i]) * static_cast<double>(distance2[i]);
    }
    block_sums[block] = sum;
  });
}

void check_points(const Exec& exec, std::int64_t n_chunks, const std::int64_t* chunk_begin, std::int64_t dim,
                  const float* points, const float* weights, float largest, bool* sound) {
  exec.pool->parallel_for(n_chunks, [&](std::int64_t c) {
    bool fine = true;
    for (std::int64_t i = chunk_begin[c] * dim; i < chunk_begin[c + 1] * dim; ++i)
      fine &= std::fabs(points[i]) <= largest;
    for (std::int64_t i = chunk_begin[c]; i < chunk_begin[c + 1]; ++i)
      fine &= weights[i] >= 0 && weights[i] <= std::numeric_limits<float>::max();
    sound[c] = fine;
  });
}

}  // namespace

VqKernels cpu_vq_kernels() {
  return {.nearest = nearest,
          .nearest_from = nearest_from,
          .nearest_m = nearest_m,
          .centroid_sums = centroid_sums,
          .potentials = potentials,
          .lower_potentials = lower_potentials,
          .check_points = check_points};
}

}  // namespace voronoi::kernels
