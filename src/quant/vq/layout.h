// Working layout of the vector methods. Columns stand in processing order (position 0 is quantized first); the rows of
// the operator are cut into pieces, and a piece holds its rows transposed: [in, width], so that a column's rows are
// contiguous and a vector is v neighbours. Rows depend on each other through the codebooks alone: each piece runs on
// its own.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "backend/device.h"
#include "core/team.h"
#include "quant/quantizer.h"

namespace voronoi::quant {

/// Extents of one operator under given parameters; the names of encoding.h.
struct VqGeometry {
  std::int64_t out_features = 0, in_features = 0;
  std::int64_t v = 0, k = 0, kr = 0, groups = 1;
  std::int64_t outlier_size = 0, v0 = 1, k0 = 0;
  std::int64_t group_size = 0;
  std::int64_t n_pieces = 0;
  std::int64_t unit =
      1;  ///< rows of a piece are a multiple of this (the last one excepted): least common multiple of v, v0

  bool is_outlier(std::int64_t position) const { return position < outlier_size; }
  /// Column group of a position that is no outlier.
  std::int64_t group_of(std::int64_t position) const { return (position - outlier_size) / group_size; }
  std::int64_t row_begin(std::int64_t piece) const;
  std::int64_t row_end(std::int64_t piece) const { return row_begin(piece + 1); }
  /// Most vectors a column of a piece can have, of either length: the stride of codes.
  std::int64_t max_vectors(std::int64_t piece) const;
};

VqGeometry make_geometry(const QuantParameters& parameters, std::int64_t out_features, std::int64_t in_features);

/// Scale and bias of each column, processing order, as they are stored (already rounded).
struct ColumnScale {
  std::vector<float> scale, bias;
};

/// Contiguous rows [row_begin, row_begin + rows) of the operator. width: rows rounded up to whole vectors of both
/// lengths; what lies past `rows` is zero and stays out of distances, feedback and training.
struct Piece {
  std::int64_t id = 0, row_begin = 0, rows = 0, width = 0;
  std::int64_t code_stride = 0;     ///< codes of a column
  std::vector<float> weight;        ///< [in, width]
  std::vector<float> quantized;     ///< [in, width], exactly what decode() gives for the codes
  std::vector<float> residual;      ///< [in, width] target of a column when it was quantized, less its quantized value
  std::vector<std::int32_t> codes;  ///< [in, code_stride]
  std::vector<std::int32_t> residual_codes;
};

/// The pieces this member of the team owns, with their weights, in order of id.
std::vector<Piece> make_pieces(const VqGeometry& geometry, const core::Team& team, std::span<const float> weight,
                               std::span<const std::int32_t> perm);

/// body(piece) for all pieces of this member, over the threads of the context.
void for_each_piece(backend::Context& context, std::vector<Piece>& pieces, const std::function<void(Piece&)>& body);

/// Sums an array that each piece of the team contributes to, in order of piece id: the same bits on every member of any
/// team. parts: one array of `size` a piece of this member, in order of id; they are consumed.
std::vector<double> sum_over_pieces(core::Team& team, std::int64_t size, std::vector<std::vector<double>>&& parts);

/// Every member's codes and residual codes (concatenated in order of piece id) for all pieces of the operator.
struct AllCodes {
  std::vector<std::vector<std::int32_t>> codes, residual_codes;  ///< by piece id: [in, max_vectors(piece)]
};
AllCodes gather_codes(core::Team& team, const VqGeometry& geometry, const std::vector<Piece>& pieces);

}  // namespace voronoi::quant
