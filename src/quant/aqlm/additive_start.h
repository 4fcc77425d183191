// Where additive codes begin: scales of rows by their length, codebooks by residual k-means.
#pragma once

#include <cstdint>

#include "backend/device.h"
#include "quant/aqlm/additive_rows.h"

namespace voronoi::quant {

struct AdditiveStart {
  int kmeans_iterations = 100;
  double kmeans_tolerance = 1e-4;
  std::uint64_t seed = 0, stream = 0;
  /// Every vector counts the same, and nothing is rounded; else as much as its row's length and the diagonal of H say,
  /// and numbers are rounded to what is stored before codes are chosen.
  bool published = false;
};

/// Fills rows.numbers: each row's scale is its length (and 1e-9); k-means over the vectors of W / scale, then over what
/// its centroids leave of them, codebook by codebook. Collective. Returns the k-means steps that were made.
int start_codes(backend::Context& context, AdditiveRows& rows, const AdditiveStart& start);

}  // namespace voronoi::quant
