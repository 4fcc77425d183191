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

}  // namespace

MemoryPeak site_memory(const QuantParameters& parameters, std::int64_t in_features,
                       std::span<const OperatorShape> operators, std::int64_t moments_bytes, int n_threads,
                       int team_size, bool asymmetric) {
  const std::int64_t square = in_features * in_features;
  const Method& method = find_method(parameters.method);
  const bool chooses = moments_bytes > (asymmetric ? 6 : 2) * square + 2 * in_features;
  const std::int64_t judge = chooses && (asymmetric || method.judges_held_out()) ? 4 * square : 0;
  const std::int64_t cross = asymmetric ? (chooses ? 8 : 4) * square : 0;
  MemoryPeak peak;
  // The metric, packed, both triangles, fp64 work and the factor that is made from it.
  peak.consider(moments_bytes + cross + (2 + 4 + 8 + 4) * square, "factoring the Hessian");
  // Two candidates, packed, the factor of one, and both triangles that it is made from or a panel of its inverse.
  if (chooses)
    peak.consider(moments_bytes + (2 + 2 + 8) * square +
                      std::max(4 * square, 8 * in_features * std::min(in_features, kInversePanel)),
                  "choosing the metric");
  for (const OperatorShape& shape : operators) {
    const std::int64_t weight = 4 * shape.out_features * in_features;
    const std::int64_t held = moments_bytes + (4 + 4) * square + judge + cross + (asymmetric ? 2 : 1) * weight;
    if (asymmetric) peak.consider(held + weight, "the target of " + shape.name);
    method.consider_memory(parameters, {shape.name, shape.out_features, in_features, n_threads, team_size, held}, peak);
    // Encoding, its arrays, and the file's image twice.
    peak.consider(held + 4 * bytes_stored(parameters, shape.out_features, in_features), "writing " + shape.name);
  }
  peak.bytes += static_cast<std::int64_t>(kHeapSlack * static_cast<double>(peak.bytes));
  return peak;
}

std::int64_t host_staging(const QuantParameters& parameters, std::int64_t in_features,
                          std::span<const OperatorShape> operators, std::int64_t moments_bytes, bool asymmetric) {
  std::int64_t widest = 0;
  for (const OperatorShape& shape : operators)
    widest = std::max(widest, (asymmetric ? 12 : 4) * shape.out_features * in_features +
                                  4 * bytes_stored(parameters, shape.out_features, in_features));
  // The prepared Hessian and its fp64 image are the host's too.
  const std::int64_t square = in_features * in_features;
  return moments_bytes + std::max((asymmetric ? 26 : 18) * square, 10 * square + widest);
}

}  // namespace voronoi::quant
