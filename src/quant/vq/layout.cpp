#include "quant/vq/layout.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

#include "core/error.h"
#include "core/types.h"
#include "quant/vq/vector_parameters.h"

namespace voronoi::quant {
namespace {

// Enough vectors in a column of a part to keep the search and the matrix products busy, and enough parts for the
// threads and ranks that may share one operator.
constexpr std::int64_t kVectorsAPart = 24;
constexpr std::int64_t kMaxParts = 64;

/// Slice of `rows` rows; the parts are filled in by the caller.
kernels::VqSlice make_slice(const VqGeometry& geometry, std::int64_t rows) {
  kernels::VqSlice slice;
  slice.in_features = geometry.in_features;
  slice.rows = rows;
  slice.code_stride = core::ceil_div(rows, geometry.v);
  slice.width = slice.code_stride * geometry.v;
  if (geometry.outlier_size > 0) {
    const std::int64_t vectors = core::ceil_div(rows, geometry.v0);
    slice.code_stride = std::max(slice.code_stride, vectors);
    slice.width = std::max(slice.width, vectors * geometry.v0);
  }
  slice.v = geometry.v;
  slice.k = geometry.k;
  slice.kr = geometry.kr;
  slice.groups = geometry.groups;
  slice.group_size = geometry.group_size;
  slice.outlier_size = geometry.outlier_size;
  slice.v0 = geometry.v0;
  slice.k0 = geometry.k0;
  return slice;
}

}  // namespace

std::int64_t VqGeometry::row_group(std::int64_t part) const {
  const auto behind = std::upper_bound(row_groups.begin(), row_groups.end(), row_begin(part));
  return behind - row_groups.begin() - 1;
}

VqGeometry make_geometry(const QuantParameters& parameters, std::int64_t out_features, std::int64_t in_features,
                         std::span<const std::int64_t> later_groups) {
  const auto& p = parameters.get<VectorParameters>();
  VqGeometry geometry;
  geometry.out_features = out_features;
  geometry.in_features = in_features;
  geometry.v = p.vector_length;
  geometry.k = p.centroids;
  geometry.kr = p.residual_centroids;
  geometry.groups = p.groups;
  VORONOI_REQUIRE(out_features > 0 && in_features > 0 && geometry.v > 0 && geometry.groups > 0,
                  "an operator has rows, columns and groups");
  if (p.outlier_percent > 0) {
    const auto wanted =
        static_cast<std::int64_t>(std::ceil(p.outlier_percent / 100 * static_cast<double>(in_features)));
    geometry.outlier_size = wanted + (in_features - wanted) % geometry.groups;
    geometry.v0 = p.outlier_vector_length;
    geometry.k0 = p.outlier_centroids;
  }
  const std::int64_t rest = in_features - geometry.outlier_size;
  VORONOI_REQUIRE(rest > 0 && rest % geometry.groups == 0, "groups must divide the columns that are no outliers");
  geometry.group_size = rest / geometry.groups;
  geometry.unit = geometry.outlier_size > 0 ? std::lcm(geometry.v, geometry.v0) : geometry.v;
  const std::int64_t units = core::ceil_div(out_features, geometry.unit),
                     vectors = core::ceil_div(out_features, geometry.v);
  const std::int64_t n_parts = std::min(units, std::clamp<std::int64_t>(vectors / kVectorsAPart, 1, kMaxParts));
  for (std::int64_t part = 0; part <= n_parts; ++part)
    geometry.cuts.push_back(std::min(out_features, units * part / n_parts * geometry.unit));
  for (const std::int64_t row : later_groups) {
    const std::int64_t nearest = (row + geometry.unit / 2) / geometry.unit * geometry.unit;
    geometry.row_groups.push_back(std::min(nearest, out_features));
    geometry.cuts.push_back(geometry.row_groups.back());
  }
  std::sort(geometry.cuts.begin(), geometry.cuts.end());
  geometry.cuts.erase(std::unique(geometry.cuts.begin(), geometry.cuts.end()), geometry.cuts.end());
  geometry.n_parts = std::ssize(geometry.cuts) - 1;
  return geometry;
}

MemberParts member_parts(const VqGeometry& geometry, std::int64_t rank, std::int64_t size) {
  const std::int64_t first = geometry.n_parts * rank / size, last = geometry.n_parts * (rank + 1) / size;
  const std::int64_t begin = geometry.row_begin(first);
  return {first, last - first, begin, geometry.row_begin(last) - begin};
}

std::vector<PieceParts> member_pieces(const VqGeometry& geometry, std::int64_t rank, std::int64_t size) {
  const MemberParts all = member_parts(geometry, rank, size);
  std::vector<PieceParts> pieces;
  for (std::int64_t part = all.first; part < all.first + all.count; ++part) {
    const std::int64_t group = geometry.row_group(part);
    if (pieces.empty() || pieces.back().row_group != group)
      pieces.push_back({group, {part, 0, geometry.row_begin(part), 0}});
    ++pieces.back().parts.count;
    pieces.back().parts.rows += geometry.row_end(part) - geometry.row_begin(part);
  }
  return pieces;
}

VqRows make_rows(backend::Context& context, const VqGeometry& geometry, const core::Team& team,
                 std::span<const float> weight, std::span<const std::int32_t> perm) {
  const std::int64_t n = geometry.in_features;
  VqRows rows;
  rows.parts = member_parts(geometry, team.rank(), team.size());
  for (const PieceParts& of_group : member_pieces(geometry, team.rank(), team.size())) {
    VqPiece& piece = rows.pieces.emplace_back();
    piece.row_group = of_group.row_group;
    piece.parts = of_group.parts;
    for (std::int64_t part = 0; part <= piece.parts.count; ++part)
      piece.part_begin.push_back(geometry.row_begin(piece.parts.first + part) - piece.parts.row_begin);
    piece.slice = make_slice(geometry, piece.parts.rows);
    piece.slice.n_parts = piece.parts.count;
    piece.slice.part_begin = piece.part_begin.data();
    piece.first_value = rows.n_values;
    piece.first_code = rows.n_codes;
    rows.n_values += n * piece.slice.width;
    rows.n_codes += n * piece.slice.code_stride;
  }

  rows.weight = backend::Array<float>(context, rows.n_values);
  const backend::DeviceView<float> source(context, weight.subspan(static_cast<std::size_t>(rows.parts.row_begin * n),
                                                                  static_cast<std::size_t>(rows.parts.rows * n)));
  const backend::DeviceView<std::int32_t> order(context, perm);
  for (const VqPiece& piece : rows.pieces)
    context.slice().transpose(context.exec(), piece.slice,
                              source.data() + (piece.parts.row_begin - rows.parts.row_begin) * n, order.data(),
                              piece.values(rows.weight.data()));
  return rows;
}

std::vector<double> sum_over_parts(backend::Context& context, core::Team& team, std::int64_t n_parts,
                                   std::int64_t my_parts, std::int64_t size,
                                   const std::function<void(bool combined, double* sums)>& fill, bool may_combine) {
  team.check_stop();
  const bool combined = team.size() == 1 && may_combine;
  backend::Array<double> sums(context, combined ? size : my_parts * size);
  fill(combined, sums.data());
  const std::vector<double> mine = sums.to_host();
  return combined ? mine : team.sum(mine, size, n_parts);
}

std::vector<double> sum_over_parts(backend::Context& context, core::Team& team, std::int64_t n_parts,
                                   const VqRows& rows, std::int64_t size,
                                   const std::function<void(const VqPiece& piece, bool combined, double* sums)>& fill) {
  return sum_over_parts(
      context, team, n_parts, rows.parts.count, size,
      [&](bool combined, double* sums) {
        for (const VqPiece& piece : rows.pieces)
          fill(piece, combined, combined ? sums : sums + (piece.parts.first - rows.parts.first) * size);
      },
      rows.pieces.size() == 1);
}

}  // namespace voronoi::quant
