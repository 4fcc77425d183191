// What a member of a team has of an operator in additive codes: its rows' codes and scales, the codebooks that all
// share, what is left of the weight, and the sums over all rows that are the same on any team.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "core/team.h"
#include "core/thread_pool.h"
#include "format/aqlm.h"
#include "quant/quantizer.h"

namespace voronoi::quant {

/// Pieces of an operator's rows, each with sums of its own: as many as the shape says, a member has whole ones.
struct RowPieces {
  std::int64_t rows = 0, count = 1;
  std::int64_t first = 0, end = 0;  ///< the member's
  RowPieces(std::int64_t out_features, std::int64_t rank, std::int64_t team_size);
  std::int64_t begin_of(std::int64_t piece) const { return rows * piece / count; }
  std::int64_t row_begin() const { return begin_of(first); }
  std::int64_t my_rows() const { return begin_of(end) - begin_of(first); }
};
/// How many there are.
std::int64_t row_pieces(std::int64_t out_features);

/// What decodes to a weight, in fp32: as it is stored, or on its way there.
struct AdditiveNumbers {
  std::vector<float> books;          ///< [M, k, g]
  std::vector<float> scale;          ///< [rows of the member]
  std::vector<std::uint16_t> codes;  ///< [rows, in / g, M]
};

/// Collective calls: loss, gather and those that say so.
class AdditiveRows {
 public:
  /// hessian: [n, n] in natural order, host; it and the input must outlive this.
  AdditiveRows(core::ThreadPool& pool, core::Team& team, const QuantInput& input, std::span<const float> hessian,
               const format::AqlmExtents& extents);

  core::ThreadPool& pool() const { return pool_; }
  core::Team& team() const { return team_; }
  const format::AqlmExtents& extents() const { return e_; }
  const RowPieces& pieces() const { return pieces_; }
  std::int64_t rows() const { return pieces_.my_rows(); }
  std::span<const float> weight() const { return weight_; }  ///< [rows, in]
  std::span<const float> hessian() const { return hessian_; }
  std::int64_t unknowns() const { return e_.codebooks * e_.centroids() * e_.in_group; }

  AdditiveNumbers numbers;

  /// use(first column, place in the codebooks of the centroid that stands there) for all of a row of the member.
  template <class Use>
  void visit_row(std::int64_t row, const Use& use) const {
    const std::int64_t books = e_.codebooks, g = e_.in_group, k = e_.centroids();
    const std::uint16_t* codes = numbers.codes.data() + row * e_.groups() * books;
    for (std::int64_t j = 0; j < e_.groups(); ++j)
      for (std::int64_t m = 0; m < books; ++m) use(j * g, (m * k + codes[j * books + m]) * g);
  }

  /// matrix() = the weight less what the numbers decode to, product() = matrix() H. Returns the loss of each row of
  /// the member, tr of its part of matrix() H matrix()^T.
  std::vector<double> evaluate();
  /// matrix() = the sums of the centroids in `books` [M, k, g], without their scales or with them, product() = matrix()
  /// H.
  void expand(std::span<const double> books, bool scaled);
  /// product() = matrix() times another metric [n, n].
  void multiply(std::span<const float> metric);
  std::span<const float> matrix() const { return matrix_; }    ///< [rows, in]
  std::span<const float> product() const { return product_; }  ///< [rows, in]

  /// Of a number for each row of the member, over all rows in their order. Collective.
  double sum_of_rows(std::span<const double> by_row) const;
  /// What each centroid's values get of product(), times its rows' scales: [M, k, g]. diagonal: of H's diagonal times
  /// the square of the scales, which is the curvature of each. Collective.
  std::vector<double> collect(bool diagonal) const;

  /// The numbers rounded to what is stored.
  void round_numbers();
  /// Everyone's rows. Collective.
  format::AqlmEncoding gather() const;

 private:
  core::ThreadPool& pool_;
  core::Team& team_;
  format::AqlmExtents e_;
  RowPieces pieces_;
  std::span<const float> weight_, hessian_;
  std::vector<float> matrix_, product_;
};

}  // namespace voronoi::quant
