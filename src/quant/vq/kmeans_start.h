// Where k-means starts: a bounded sample of the training set and k-means++ on it. Internal to the room.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "backend/tensor.h"
#include "core/team.h"
#include "quant/vq/kmeans.h"

namespace voronoi::quant {

/// Points [n, dim] with weights > 0 on the host, the same on every member of the team.
struct KmeansSample {
  bool complete = false;  ///< every point of positive weight is in it, once
  std::vector<float> points, weights;
  std::int64_t n() const { return static_cast<std::int64_t>(weights.size()); }
};

/// Points `ids` of points [*, dim], both in the order of ids.
std::vector<float> fetch_points(backend::Context& context, const float* points, std::int64_t dim,
                                const std::vector<std::int32_t>& ids);

/// chunk_weights: total weight of each chunk of the team, by id; n_total: points of the whole team; weights: those of
/// `mine` on the host. Collective. Draws points with probability proportional to their weight, stratified, at most
/// max(16 k, 32768).
KmeansSample draw_sample(backend::Context& context, core::Team& team, std::span<const double> chunk_weights,
                         std::int64_t n_total, const KmeansPoints& mine, std::span<const float> weights,
                         const KmeansParameters& parameters);

/// Greedy k-means++ seeds [k, dim] (Arthur & Vassilvitskii 2007, section 6: of 2 + ln k candidates the best). Above
/// 1024 centroids, where its n k (2 + ln k) distances would cost more than the Lloyd steps, a round draws k / 128 seeds
/// at once from the potential of the round before, as k-means|| does (Bahmani et al. 2012): n k distances in all, made
/// by the nearest-centroid kernel.
std::vector<float> seed_centroids(backend::Context& context, const KmeansSample& sample,
                                  const KmeansParameters& parameters);

/// Lloyd steps from parameters.initial; collective.
KmeansResult lloyd(backend::Context& context, core::Team& team, std::int64_t n_chunks, const KmeansPoints& mine,
                   const KmeansParameters& parameters);

}  // namespace voronoi::quant
