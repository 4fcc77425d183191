// e H e^T of rows of vectors, tile by tile.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "backend/tensor.h"

namespace voronoi::quant {

/// Products with one H, in buffers that are reused.
class RowEnergies {
 public:
  /// h [n, n] in the context's memory. Both must outlive it.
  RowEnergies(backend::Context& context, std::int64_t most_rows, std::int64_t n, const backend::Array<float>& h);

  /// vectors [rows, n] on the host, rows <= most_rows. Of each row, in fp64; valid until the next call. How many rows
  /// are computed together decides the roundings on a GPU, and nothing else does.
  std::span<const double> of(std::span<const float> vectors);

 private:
  backend::Context& context_;
  std::int64_t n_;
  const backend::Array<float>& h_;
  backend::Array<float> tile_, product_;
  std::vector<float> image_;
  std::vector<double> sums_;
};

}  // namespace voronoi::quant
