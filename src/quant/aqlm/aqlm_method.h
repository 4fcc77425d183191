// AQLM (Egiazarian and others, "Extreme Compression of Large Language Models via Additive Quantization", ICML 2024,
// arXiv 2401.06118): groups of a row as sums of centroids, codebooks and codes fitted in turn to the layer's true
// error.
#pragma once

#include <cstdint>
#include <string>

#include "quant/method.h"

namespace voronoi::quant {

/// Beside the steps of k-means of VectorParameters.
struct AqlmParameters {
  std::int64_t codebooks = 2;  ///< M
  std::int64_t code_bits = 8;  ///< log2 of the centroids of a codebook
  std::int64_t in_group = 8;   ///< g, columns of a row that share codes
  int rounds = 30;             ///< of fit and search, at most
  double tolerance = 0.01;     ///< a round that lowers the loss by less than this share is the last
  int beam = 1;
  std::string rule = "exact";
  bool published() const { return rule == "published"; }
};

const Method& aqlm_method();

}  // namespace voronoi::quant
