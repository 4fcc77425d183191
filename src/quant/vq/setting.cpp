#include "quant/vq/setting.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "core/packing.h"
#include "quant/vq/vector_parameters.h"

namespace voronoi::quant {
namespace {

// What VPTQ's public format holds and its kernels read.
constexpr std::array<std::int64_t, 5> kVectorLengths{4, 6, 8, 12, 16};
constexpr std::array<int, 6> kMainBits{8, 12, 13, 14, 15, 16};
constexpr std::array<int, 13> kResidualBits{0, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 16};

// k-means on Gaussian vectors of length v (row) with 2^b centroids (column): dB gained over dB that the
// rate-distortion bound allows, 6.02 b / v. Measured on fresh vectors up to b = 12; 14 and 16 continue the rows.
constexpr std::array<double, 8> kTableBits{2, 4, 6, 8, 10, 12, 14, 16};
constexpr std::array<std::array<double, 8>, 5> kEfficiency{{
    {.632, .762, .809, .833, .853, .869, .882, .893},
    {.590, .743, .793, .815, .835, .856, .869, .880},
    {.566, .729, .780, .805, .824, .845, .858, .869},
    {.541, .682, .752, .788, .812, .834, .847, .858},
    {.530, .668, .733, .774, .803, .827, .840, .851},
}};

double efficiency(std::int64_t v, int bits) {
  const auto row =
      static_cast<std::size_t>(std::find(kVectorLengths.begin(), kVectorLengths.end(), v) - kVectorLengths.begin());
  const double at = (bits - kTableBits.front()) / 2;
  const auto left = std::min(static_cast<std::size_t>(std::max(at, 0.0)), kTableBits.size() - 2);
  const double share = at - static_cast<double>(left);
  return kEfficiency[row][left] * (1 - share) + kEfficiency[row][left + 1] * share;
}

double gain_db(std::int64_t v, int bits) {
  return bits > 0 ? 6.0206 * bits / static_cast<double>(v) * efficiency(v, bits) : 0;
}

bool fits(const QuantParameters& parameters, std::span<const LayerCount> layers) {
  return std::all_of(layers.begin(), layers.end(), [&](const LayerCount& layer) {
    return check_shape(parameters, layer.out_features, layer.in_features).empty();
  });
}

/// Calls visit(parameters) for every setting of the format that the layers allow.
template <class Visit>
void for_each_setting(const QuantParameters& base, std::span<const LayerCount> layers, const Visit& visit) {
  QuantParameters parameters = base;
  auto& vectors = parameters.get<VectorParameters>();
  vectors.groups = 1;
  vectors.outlier_percent = 0;
  for (const std::int64_t v : kVectorLengths)
    for (const int main : kMainBits)
      for (const int residual : kResidualBits) {
        if (residual > main) continue;
        vectors.vector_length = v;
        vectors.centroids = std::int64_t{1} << main;
        vectors.residual_centroids = residual > 0 ? std::int64_t{1} << residual : 0;
        if (check_parameters(parameters).empty() && fits(parameters, layers)) visit(parameters);
      }
}

}  // namespace

double expected_gain_db(std::int64_t vector_length, std::int64_t centroids, std::int64_t residual_centroids) {
  return gain_db(vector_length, core::index_bits(centroids)) +
         gain_db(vector_length, core::index_bits(residual_centroids));
}

std::vector<QuantParameters> vector_settings(const QuantParameters& base, std::span<const LayerCount> layers) {
  std::vector<QuantParameters> settings;
  for_each_setting(base, layers, [&](const QuantParameters& parameters) { settings.push_back(parameters); });
  return settings;
}

QuantParameters quick_vector_setting(const QuantParameters& base) {
  constexpr int kQuickIterations = 10;
  QuantParameters parameters = base;
  auto& p = parameters.get<VectorParameters>();
  p.vector_length = kVectorLengths.front();
  p.centroids = std::int64_t{1} << kMainBits.front();
  p.residual_centroids = 0;
  p.groups = 1;
  p.outlier_percent = 0;
  p.kmeans_iterations = kQuickIterations;
  return parameters;
}

std::optional<QuantParameters> choose_vector_setting(const QuantParameters& base, double wanted,
                                                     std::span<const LayerCount> layers) {
  std::optional<QuantParameters> best;
  double best_gain = 0;
  for_each_setting(base, layers, [&](const QuantParameters& parameters) {
    const auto& p = parameters.get<VectorParameters>();
    const double gain = expected_gain_db(p.vector_length, p.centroids, p.residual_centroids);
    if (best && gain <= best_gain) return;
    if (true_bits(parameters, layers) > wanted * (1 + kBitsMargin)) return;
    best = parameters;
    best_gain = gain;
  });
  return best;
}

std::optional<double> least_vector_bits(const QuantParameters& base, std::span<const LayerCount> layers) {
  std::optional<double> least;
  for_each_setting(base, layers, [&](const QuantParameters& parameters) {
    const double bits = true_bits(parameters, layers);
    if (!least || bits < *least) least = bits;
  });
  return least;
}

}  // namespace voronoi::quant
