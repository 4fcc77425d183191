#include "quant/setting.h"

#include "quant/method.h"

namespace voronoi::quant {

double true_bits(const QuantParameters& parameters, std::span<const LayerCount> layers) {
  double bits = 0, weights = 0;
  for (const LayerCount& layer : layers) {
    const auto count = static_cast<double>(layer.count);
    bits += count * static_cast<double>(planned_bits(parameters, layer.out_features, layer.in_features).total());
    weights += count * static_cast<double>(layer.out_features) * static_cast<double>(layer.in_features);
  }
  return weights > 0 ? bits / weights : 0;
}

}  // namespace voronoi::quant
