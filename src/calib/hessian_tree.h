// Sum of x x^T over numbered chunks of the calibration set, the same bits for any division of the chunks over ranks.
#pragma once

#include <cstdint>
#include <span>

#include "backend/tensor.h"
#include "calib/sum_tree.h"

namespace voronoi::calib {

/// What rows counted, where it was not 1 each.
struct RowWeights {
  double sum = 0, squares = 0;
  void add(float weight) {
    sum += static_cast<double>(weight);
    squares += static_cast<double>(weight) * static_cast<double>(weight);
  }
  /// How many rows of equal weight would say as much: (sum of weights)^2 / sum of squares.
  double effective_rows() const { return squares > 0 ? sum * sum / squares : 0; }
};

/// A tree of packed lower triangles: n(n+1)/2 values, row by row; behind them the sums of RowWeights.
class HessianTree : public SumTree {
 public:
  /// n: inputs of the site.
  HessianTree(backend::Context& context, std::int64_t n) : SumTree(context, packed_size(n) + kWeightValues), n_(n) {}

  /// Values of a packed triangle of order n.
  static std::int64_t packed_size(std::int64_t n) { return n * (n + 1) / 2; }

  std::int64_t n() const { return n_; }
  /// `sum`, from room(): it begins with the packed lower triangle of sum x x^T over the chunk, each row as often as it
  /// counted; n_tokens: rows it summed; n_left_out: rows of the chunk besides.
  void add_chunk(std::int64_t chunk, backend::Array<double> sum, std::int64_t n_tokens, std::int64_t n_left_out = 0,
                 const RowWeights& weights = {});

  // What counts and the values behind the triangle stand for.
  static std::int64_t n_tokens(const SumCounts& counts) { return counts[0]; }
  static std::int64_t n_left_out(const SumCounts& counts) { return counts[1]; }
  static RowWeights weights(std::span<const double> behind);

 private:
  static constexpr std::int64_t kWeightValues = 2;
  std::int64_t n_;
};

/// A tree of whole matrices [n, n], row-major.
class CrossTree : public SumTree {
 public:
  CrossTree(backend::Context& context, std::int64_t n) : SumTree(context, n * n) {}
};

}  // namespace voronoi::calib
