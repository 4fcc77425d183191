// One codebook of GPTVQ by expectation maximisation: points x of d columns with a lower triangular T for each vector of
// columns, so that an error x - c counts m |T (x - c)|^2.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

namespace voronoi::quant {

/// Calls body(i) for i in [0, n), each once, on any thread.
using ForEach = std::function<void(std::int64_t n, const std::function<void(std::int64_t)>& body)>;

/// The vectors that share a codebook: `rows` rows of `columns` vectors.
struct BookPoints {
  std::int64_t d = 0, columns = 0, rows = 0;
  std::int64_t lanes = 0;         ///< rows rounded up, kernels::host_lanes
  std::vector<float> values;      ///< [columns, d, lanes], zero past the rows: x, and T x once `transform` was called
  std::vector<float> mass;        ///< [columns, lanes] m; empty: 1 each
  const float* metric = nullptr;  ///< [columns, d, d] T, row by row; what is above the diagonal is not looked at

  BookPoints(std::int64_t vector_columns, std::int64_t n_columns, std::int64_t n_rows);
  float* column(std::int64_t j) { return values.data() + j * d * lanes; }
  const float* column(std::int64_t j) const { return values.data() + j * d * lanes; }
  void transform();
};

/// k of the points, as x, not yet transformed: equally spaced in the order of their Mahalanobis distance from the mean
/// (of equal ones the first). [k, d]. Points on a line or in one place are taken for slightly wider.
std::vector<float> mahalanobis_start(const BookPoints& points, std::int64_t k);

struct BookRule {
  int most_steps = 100;
  double tolerance =
      0;  ///< a step that lowers the objective by less than this share is the last; 0: until nothing moves
  bool empty_to_zero = false;  ///< centroids without points become 0, as published; else they stay where they are
};

struct BookFit {
  std::vector<float> centroids;   ///< [k, d]
  std::vector<double> objective;  ///< sum of m |T (x - c)|^2 after each step, for the choices made in it
  std::int64_t unused = 0;        ///< centroids without points in the last step
};

/// Of transformed points. Ties go to the lowest index, sums are combined in an order that follows from the shape.
BookFit fit_book(const ForEach& for_each, const BookPoints& points, std::vector<float> start, const BookRule& rule);

/// Centroids by column, [d, k], for nearest_by_column under T [d, d]: T c and half its squared norm, [d + 1, k].
void transform_book(std::int64_t d, std::int64_t k, const float* centroids, const float* metric, float* book);
/// [k, d] as [d, k].
std::vector<float> by_column(std::int64_t d, std::span<const float> centroids);

}  // namespace voronoi::quant
