#include "quant/memory.h"

#include <algorithm>

#include "core/types.h"
#include "quant/baselines/uniform.h"
#include "quant/cost.h"
#include "quant/footprint.h"
#include "quant/vq/codebooks.h"
#include "quant/vq/kmeans_start.h"
#include "quant/vq/layout.h"

namespace voronoi::quant {
namespace {

using core::MemoryPeak;

// What allocator and matrix products hold beyond these arrays, as a share: seen with SmolLM2-135M.
constexpr double kHeapSlack = 0.08;

std::int64_t bytes_stored(const QuantParameters& parameters, std::int64_t rows, std::int64_t columns) {
  return planned_bits(parameters, rows, columns).total() / 8;
}

/// What k-means over `points` vectors in n_chunks chunks holds.
std::int64_t kmeans_bytes(std::int64_t points, std::int64_t n_chunks, std::int64_t dim, std::int64_t k,
                          std::int64_t team_size) {
  const auto steps = [&](std::int64_t n, std::int64_t chunks) {
    const std::int64_t pieces = chunks * kernels::cpu_sum_pieces(n / chunks, k);
    const std::int64_t sums = 8 * (k * (dim + 1) + 1);
    // A team exchanges the sums of all chunks: what is sent, what arrives, and its numbers.
    return 8 * n + sums * (pieces + (team_size > 1 ? chunks * (1 + 2 * team_size) : 0));
  };
  const std::int64_t stride = points * team_size / (kCoarsePointsACentroid * k);
  const std::int64_t coarse = stride > 1 ? points / stride : points;
  const std::int64_t sample = std::min(coarse * team_size, sample_size(k));
  const std::int64_t training = 4 * (dim + 1);
  // The sample's rows exist three times while they are gathered, its columns beside it while seeds are drawn.
  const std::int64_t starting =
      training * coarse +
      std::max({3 * training * sample, 2 * training * sample + 12 * sample, training * sample + steps(sample, 1)});
  return std::max({starting, training * coarse + steps(coarse, n_chunks), training * points + steps(points, n_chunks)});
}

/// Peak of a vector method beside the prepared Hessian and the dense weight.
void vector_memory(const QuantParameters& p, std::int64_t rows, std::int64_t columns, int n_threads, int team_size,
                   std::int64_t held, const std::string& name, MemoryPeak& peak) {
  const VqGeometry g = make_geometry(p, rows, columns);
  const std::int64_t mine = core::ceil_div(g.n_parts, team_size);
  const std::int64_t piece_weights = columns * core::ceil_div(rows, g.n_parts), my_weights = piece_weights * mine;
  const std::int64_t busy = std::min<std::int64_t>(n_threads, mine);
  const std::int64_t codes = 4 * my_weights / g.v, books = 4 * g.v * (g.k + g.kr) * g.groups;
  const bool residual = g.kr > 0;
  held += p.act_order ? 4 * columns * columns : 0;              // the Hessian in processing order
  held += 8 * my_weights + codes * (residual ? 2 : 1) + books;  // pieces and codebooks
  const std::int64_t products = 8 * piece_weights * busy;       // a matrix and its product with H for each busy thread
  const std::int64_t points = my_weights / g.groups / g.v;

  peak.consider(held + products, "products with the Hessian of " + name);
  peak.consider(held + kmeans_bytes(points, mine, g.v, g.k, team_size), "k-means of " + name);
  std::int64_t loop = 4 * piece_weights * busy;
  if (residual) {
    loop += 4 * my_weights;
    peak.consider(held + 4 * my_weights + kmeans_bytes(points, mine, g.v, g.kr, team_size),
                  "k-means of the residuals of " + name);
  }
  peak.consider(held + loop, "column loop of " + name);
  std::int64_t refiner = 0;
  if (p.method == "voronoi") {
    const std::int64_t unknowns = 8 * g.v * (g.k + g.kr) * g.groups;
    refiner = 4 * my_weights;
    const std::int64_t snapshot = codes * (residual ? 2 : 1) + books;
    const std::int64_t exchanged = team_size > 1 ? unknowns * g.n_parts * 2 : 0;
    peak.consider(held + refiner + snapshot + products + unknowns * (mine + 6) + exchanged, "refits of " + name);
  }
  const std::int64_t all_codes = 4 * rows * columns / g.v;
  peak.consider(held + refiner + (residual ? 4 : 3) * all_codes + bytes_stored(p, rows, columns), "packing of " + name);
}

void uniform_memory(const QuantParameters& p, std::int64_t rows, std::int64_t columns, int n_threads, int team_size,
                    std::int64_t held, const std::string& name, MemoryPeak& peak) {
  const std::int64_t weights = rows * columns, mine = core::ceil_div(weights, team_size);
  const std::int64_t groups = core::ceil_div(columns, effective_group_size(p.group_size, columns));
  const std::int64_t codes = 2 * mine + 6 * rows * groups / team_size, stored = bytes_stored(p, rows, columns);
  if (p.method == "gptq") {
    const std::int64_t tiles = std::min<std::int64_t>(n_threads, row_pieces(p, rows, columns));
    peak.consider(held + codes + 4 * kRowTile * (columns + kRowTile) * tiles, "column loop of " + name);
  }
  peak.consider(held + codes + 4 * stored, "packing of " + name);
  // Tile and product hold weight above difference, on the device and on the host.
  peak.consider(held + codes + stored + 4 * weights + 16 * 2 * kErrorRows * columns, "error of " + name);
}

}  // namespace

MemoryPeak site_memory(const QuantParameters& parameters, std::int64_t in_features,
                       std::span<const OperatorShape> operators, int n_threads, int team_size) {
  const std::int64_t square = in_features * in_features;
  MemoryPeak peak;
  // Packed triangle, both triangles, fp64 work and the factor that is made from it.
  peak.consider((2 + 4 + 8 + 4) * square, "factoring the Hessian");
  for (const OperatorShape& shape : operators) {
    const std::int64_t held = (2 + 4 + 4) * square + 4 * shape.out_features * in_features;
    if (parameters.method == "vptq" || parameters.method == "voronoi")
      vector_memory(parameters, shape.out_features, in_features, n_threads, team_size, held, shape.name, peak);
    else
      uniform_memory(parameters, shape.out_features, in_features, n_threads, team_size, held, shape.name, peak);
    // Encoding, its arrays, and the file's image twice.
    peak.consider(held + 4 * bytes_stored(parameters, shape.out_features, in_features), "writing " + shape.name);
  }
  peak.bytes += static_cast<std::int64_t>(kHeapSlack * static_cast<double>(peak.bytes));
  return peak;
}

std::int64_t host_staging(const QuantParameters& parameters, std::int64_t in_features,
                          std::span<const OperatorShape> operators) {
  std::int64_t widest = 0;
  for (const OperatorShape& shape : operators)
    widest = std::max(
        widest, 4 * shape.out_features * in_features + 4 * bytes_stored(parameters, shape.out_features, in_features));
  // The prepared Hessian and its fp64 image are the host's too.
  const std::int64_t square = in_features * in_features;
  return std::max(18 * square, 10 * square + widest);
}

}  // namespace voronoi::quant
