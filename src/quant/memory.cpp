#include "quant/memory.h"

#include <algorithm>

#include "quant/method.h"
#include "quant/metric.h"

namespace voronoi::quant {
namespace {

using core::MemoryPeak;

// What allocator and matrix products hold beyond these arrays, as a share: seen with SmolLM2-135M.
constexpr double kHeapSlack = 0.08;

std::int64_t bytes_stored(const QuantParameters& parameters, std::int64_t rows, std::int64_t columns) {
  return planned_bits(parameters, rows, columns).total() / 8;
}

/// Of the moments, while linears are quantized: the next linear's metric is made of them.
std::int64_t kept_moments(std::span<const OperatorShape> operators, const StoredMoments& moments) {
  return moments.guided && operators.size() > 1 ? moments.bytes : 0;
}

/// Of the moments, while candidates are tried: those of held-out tokens, once they are blended into one for good.
std::int64_t dropped_moments(const Method& method, std::span<const OperatorShape> operators,
                             const StoredMoments& moments) {
  const bool stays = moments.asymmetric || !method.judges_held_out() || kept_moments(operators, moments) > 0;
  return moments.held_out && !stays ? moments.bytes / 2 : 0;
}

}  // namespace

MemoryPeak site_memory(const QuantParameters& parameters, std::int64_t in_features,
                       std::span<const OperatorShape> operators, const StoredMoments& moments, int n_threads,
                       int team_size) {
  const std::int64_t square = in_features * in_features;
  const Method& method = find_method(parameters.method);
  const bool chooses = moments.bytes > (moments.asymmetric ? 6 : 2) * square + 2 * in_features;
  const std::int64_t judge = chooses && (moments.asymmetric || method.judges_held_out()) ? 4 * square : 0;
  const std::int64_t cross = moments.asymmetric ? (chooses ? 8 : 4) * square : 0;
  // Metrics of one linear's groups of rows, one of which is chosen or factored while the others are there already.
  const std::int64_t groups = method.takes_row_groups() && parameters.guided_metric ? moments.row_groups : 1,
                     others = (groups - 1) * ((4 + 4) * square + judge + cross);
  const std::int64_t moments_here = moments.elsewhere ? 0 : moments.bytes - dropped_moments(method, operators, moments);
  MemoryPeak peak;
  // The metric and what judges it, packed, both triangles, fp64 work and the factor that is made from it.
  peak.consider(moments_here + others + cross + (2 + 4 + 8 + 4) * square + judge / 2, "factoring the Hessian");
  // A candidate and what judges it, packed, its factor, and both triangles that it is made from or a panel of its
  // inverse.
  if (chooses)
    peak.consider(moments_here + others / 2 + (2 + 2 + 8) * square +
                      std::max(4 * square, 8 * in_features * std::min(in_features, kInversePanel)),
                  "choosing the metric");
  if (method.changes_site(parameters)) {
    std::int64_t widest = 0;
    for (const OperatorShape& shape : operators) widest = std::max(widest, shape.out_features);
    peak.consider(moments_here + 2 * square + method.preparation_bytes(parameters, widest, in_features),
                  "preparing the site");
  }
  const std::int64_t prepared =
      (moments.elsewhere ? 0 : kept_moments(operators, moments)) + others + (4 + 4) * square + judge + cross;
  for (const OperatorShape& shape : operators) {
    const std::int64_t weight = 4 * shape.out_features * in_features;
    const std::int64_t held = prepared + (moments.asymmetric ? 2 : 1) * weight;
    if (moments.asymmetric) peak.consider(held + weight, "the target of " + shape.name);
    method.consider_memory(parameters,
                           {shape.name, shape.out_features, in_features, n_threads, team_size, held, groups}, peak);
    // Encoding, its arrays, and the file's image twice.
    peak.consider(held + 4 * bytes_stored(parameters, shape.out_features, in_features), "writing " + shape.name);
  }
  peak.bytes += static_cast<std::int64_t>(kHeapSlack * static_cast<double>(peak.bytes));
  return peak;
}

std::int64_t host_staging(const QuantParameters& parameters, std::int64_t in_features,
                          std::span<const OperatorShape> operators, const StoredMoments& moments) {
  const Method& method = find_method(parameters.method);
  std::int64_t widest = 0;
  for (const OperatorShape& shape : operators)
    widest = std::max(widest, (moments.asymmetric ? 12 : 4) * shape.out_features * in_features +
                                  4 * bytes_stored(parameters, shape.out_features, in_features) +
                                  method.host_bytes(parameters, shape.out_features, in_features));
  const std::int64_t square = in_features * in_features;
  // A candidate and what judges it, packed, and the cross moments of both kinds of tokens; then the factor, for methods
  // whose loop is the host's.
  const std::int64_t chosen_of = moments.bytes - dropped_moments(method, operators, moments);
  const std::int64_t groups = method.takes_row_groups() && parameters.guided_metric ? moments.row_groups : 1;
  return std::max(chosen_of + groups * (moments.asymmetric ? 4 + 8 : 4) * square,
                  kept_moments(operators, moments) + 4 * square + widest);
}

}  // namespace voronoi::quant
