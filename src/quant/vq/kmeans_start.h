// Where k-means starts: a bounded sample of the training set and k-means++ on it. Internal to the room.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <span>
#include <vector>

#include "backend/tensor.h"
#include "core/team.h"
#include "quant/vq/kmeans.h"

namespace voronoi::quant {

/// Points of the sample for k centroids, where the training set has more.
constexpr std::int64_t sample_size(std::int64_t k) {
  constexpr std::int64_t kPointsACentroid = 16, kLeast = 32768;
  return std::max(kPointsACentroid * k, kLeast);
}

/// Up to here seeds are chosen one by one, each the best of seed_candidates(k).
inline constexpr std::int64_t kGreedySeeds = 1024;
inline std::int64_t seed_candidates(std::int64_t k) {
  return 2 + static_cast<std::int64_t>(std::log(static_cast<double>(k)));
}

/// Points [n, dim] with weights > 0 on the host, the same on every member of the team.
struct KmeansSample {
  bool complete = false;  ///< every point of positive weight is in it, once
  std::vector<float> points, weights;
  std::int64_t n() const { return static_cast<std::int64_t>(weights.size()); }
};

/// chunk_weights: total weight of each chunk of the team, by id; n_total: points of the whole team; weights: those of
/// `mine` on the host. Collective. Draws points with probability proportional to their weight, stratified, at most
/// sample_size(k).
KmeansSample draw_sample(backend::Context& context, core::Team& team, std::span<const double> chunk_weights,
                         std::int64_t n_total, const KmeansPoints& mine, std::span<const float> weights,
                         const KmeansParameters& parameters);

/// Greedy k-means++ seeds [k, dim] (Arthur & Vassilvitskii 2007, section 6: of 2 + ln k candidates the best). Above
/// kGreedySeeds centroids, where its n k (2 + ln k) distances would cost more than the Lloyd steps, a round draws k /
/// 128 seeds at once from the potential of the round before, as k-means|| does (Bahmani et al. 2012): n k distances in
/// all, made by the nearest-centroid kernel.
std::vector<float> seed_centroids(backend::Context& context, const KmeansSample& sample,
                                  const KmeansParameters& parameters);

/// Lloyd steps from parameters.initial; collective.
KmeansResult lloyd(backend::Context& context, core::Team& team, std::int64_t n_chunks, const KmeansPoints& mine,
                   const KmeansParameters& parameters);

}  // namespace voronoi::quant
