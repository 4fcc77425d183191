// GPTVQ's pass over an operator (van Baalen et al. 2024, arXiv 2402.15319, algorithm 1): strips of columns in turn, the
// codebooks of a strip fitted to the weights as they stand there, then its vectors coded d columns at a time with their
// errors spread over the columns to come.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "backend/device.h"
#include "quant/gptvq/book_fit.h"
#include "quant/gptvq/codes.h"
#include "quant/quantizer.h"

namespace voronoi::quant {

/// What an error of a vector costs and spreads, from the factor U: a matrix [d, d] for each vector of columns, lower
/// triangular. With the rest of the columns free to make up for it, an error x of the vector's block B costs |T x|^2,
/// T = U_BB^-T, and T x is what is spread by the rows B of U.
struct VectorMetric {
  std::int64_t d = 0;
  std::vector<float> fit;    ///< in codebooks: T; as published the square root of U's diagonal (none for d = 1)
  std::vector<float> look;   ///< in choices: T; as published the square root of its reciprocal
  std::vector<float> error;  ///< what is spread: T; as published by the reciprocals of U's diagonal

  const float* of_fit(std::int64_t j) const { return fit.data() + j * d * d; }
  const float* of_look(std::int64_t j) const { return look.data() + j * d * d; }
  const float* of_error(std::int64_t j) const { return error.data() + j * d * d; }
};

/// factor: PreparedHessian::factor [n, n] on the host; n is a multiple of d.
VectorMetric vector_metric(std::int64_t n, std::int64_t d, std::span<const float> factor, bool published);

struct StripRule {
  BookRule book;
  int passes = 1;          ///< fits of a strip's codebooks, those after the first on what the pass before met
  bool published = false;  ///< masses of block scales do not count
};

struct StripFigures {
  std::int64_t steps = 0;   ///< of expectation maximisation, over all codebooks of the member and passes
  std::int64_t unused = 0;  ///< centroids without points in the end
};

/// Fills indices, codebooks and block scales of `codes`, but for the grid, which must be there. On the host whatever
/// the device is. The bytes do not depend on which other groups the member holds, nor on the threads.
StripFigures run_strips(core::ThreadPool& pool, const QuantInput& input, std::span<const float> factor,
                        const VectorMetric& metric, const StripRule& rule, GptvqCodes& codes);

}  // namespace voronoi::quant
