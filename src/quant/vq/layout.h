// Working layout of the vector methods (kernels/vq_slice.h): columns stand in processing order, a member of the team
// holds contiguous rows of the operator, transposed, in device memory. The rows are cut into parts whose number does
// not depend on the team; a member holds whole parts, and sums over rows are combined in order of part.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "backend/tensor.h"
#include "core/team.h"
#include "quant/quantizer.h"

namespace voronoi::quant {

/// Extents of one operator under given parameters; the names of encoding.h.
struct VqGeometry {
  std::int64_t out_features = 0, in_features = 0;
  std::int64_t v = 0, k = 0, kr = 0, groups = 1;
  std::int64_t outlier_size = 0, v0 = 1, k0 = 0;
  std::int64_t group_size = 0;
  std::int64_t n_parts = 0;
  std::int64_t unit =
      1;  ///< rows of a part are a multiple of this (the last one excepted): least common multiple of v, v0
  /// Where the groups of rows begin that have a Hessian each, multiples of unit; a group without a row begins where the
  /// next one does.
  std::vector<std::int64_t> row_groups{0};
  std::vector<std::int64_t> cuts;  ///< n_parts + 1 rows: where parts begin, and the end

  std::int64_t row_begin(std::int64_t part) const { return cuts[static_cast<std::size_t>(part)]; }
  std::int64_t row_end(std::int64_t part) const { return row_begin(part + 1); }
  /// Of a part; no part has rows of two groups.
  std::int64_t row_group(std::int64_t part) const;
};

/// later_groups: first rows of the groups of rows but the first; each moves to the nearest multiple of unit, so that a
/// vector has one Hessian. Parts are the same with groups and without, but for those that a boundary cuts in two.
VqGeometry make_geometry(const QuantParameters& parameters, std::int64_t out_features, std::int64_t in_features,
                         std::span<const std::int64_t> later_groups = {});

/// The parts of one member of a team.
struct MemberParts {
  std::int64_t first = 0, count = 0;
  std::int64_t row_begin = 0, rows = 0;
};
MemberParts member_parts(const VqGeometry& geometry, std::int64_t rank, std::int64_t size);

/// Scale and bias of each column, processing order, as they are stored (already rounded).
struct ColumnScale {
  std::vector<float> scale, bias;
};

/// Consecutive parts of a member in one group of rows.
struct PieceParts {
  std::int64_t row_group = 0;
  MemberParts parts;
};
/// In order; one where there is one group, none for a member without parts.
std::vector<PieceParts> member_pieces(const VqGeometry& geometry, std::int64_t rank, std::int64_t size);

/// The rows of a piece, as kernels take them. Matrices and codes of a member hold those of its pieces one after
/// another, each laid out as its slice says: a loop over rows is a loop over pieces.
struct VqPiece {
  std::int64_t row_group = 0;
  MemberParts parts;
  std::vector<std::int64_t> part_begin;  ///< where slice.part_begin points
  kernels::VqSlice slice;
  std::int64_t first_value = 0, first_code = 0;  ///< in the member's matrices and codes

  template <class T>
  T* values(T* matrix) const {
    return matrix + first_value;
  }
  kernels::VqCodes codes(const kernels::VqCodes& of_member) const {
    return {of_member.main + first_code, of_member.residual == nullptr ? nullptr : of_member.residual + first_code};
  }
};

/// The rows a member holds.
struct VqRows {
  MemberParts parts;
  std::vector<VqPiece> pieces;
  std::int64_t n_values = 0, n_codes = 0;  ///< of a matrix, of codes
  backend::Array<float> weight;            ///< [in, slice.width] of each piece, zero past the rows
};

/// The rows of this member of the team. weight [out, in], host.
VqRows make_rows(backend::Context& context, const VqGeometry& geometry, const core::Team& team,
                 std::span<const float> weight, std::span<const std::int32_t> perm);

/// Sums over all parts of the team, in order, of an array that fill(combined, sums) makes for this member's parts as
/// the kernels do: one array of `size` (where it may combine), or one a part. The same bits on every member of any
/// team. Every pass over a layer ends here, so this is where a request to stop is looked at: throws StopRequested.
std::vector<double> sum_over_parts(backend::Context& context, core::Team& team, std::int64_t n_parts,
                                   std::int64_t my_parts, std::int64_t size,
                                   const std::function<void(bool combined, double* sums)>& fill,
                                   bool may_combine = true);
/// The same of a member's pieces, one by one.
std::vector<double> sum_over_parts(backend::Context& context, core::Team& team, std::int64_t n_parts,
                                   const VqRows& rows, std::int64_t size,
                                   const std::function<void(const VqPiece& piece, bool combined, double* sums)>& fill);

}  // namespace voronoi::quant
