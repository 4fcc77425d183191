// Parameters of vector quantization in VPTQ's format.
#pragma once

#include <cstdint>

namespace voronoi::quant {

struct VectorParameters {
  std::int64_t vector_length = 4;       ///< v: consecutive rows (outputs) of one column
  std::int64_t centroids = 256;         ///< k, a power of two, 2..65536
  std::int64_t residual_centroids = 0;  ///< kr, a power of two <= k, or 0
  double outlier_percent = 0;           ///< share of columns (largest diag H) with a codebook of their own
  std::int64_t outlier_vector_length = 4, outlier_centroids = 4096;
  std::int64_t groups = 1;         ///< column groups with a codebook each
  int kmeans_iterations = 100;     ///< upper bound; stops earlier by the relative rule
  double kmeans_tolerance = 1e-4;  ///< stop when the objective falls by less than this share a step
};

}  // namespace voronoi::quant
