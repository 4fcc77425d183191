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

std::int64_t VqGeometry::row_begin(std::int64_t part) const {
  const std::int64_t units = core::ceil_div(out_features, unit);
  return std::min(out_features, units * part / n_parts * unit);
}

VqGeometry make_geometry(const QuantParameters& parameters, std::int64_t out_features, std::int64_t in_features) {
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
  geometry.n_parts = std::min(units, std::clamp<std::int64_t>(vectors / kVectorsAPart, 1, kMaxParts));
  return geometry;
}

MemberParts member_parts(const VqGeometry& geometry, std::int64_t rank, std::int64_t size) {
  const std::int64_t first = geometry.n_parts * rank / size, last = geometry.n_parts * (rank + 1) / size;
  const std::int64_t begin = geometry.row_begin(first);
  return {first, last - first, begin, geometry.row_begin(last) - begin};
}

VqRows make_rows(backend::Context& context, const VqGeometry& geometry, const core::Team& team,
                 std::span<const float> weight, std::span<const std::int32_t> perm) {
  VqRows rows;
  rows.parts = member_parts(geometry, team.rank(), team.size());
  for (std::int64_t part = 0; part <= rows.parts.count; ++part)
    rows.part_begin.push_back(geometry.row_begin(rows.parts.first + part) - rows.parts.row_begin);
  rows.slice = make_slice(geometry, rows.parts.rows);
  rows.slice.n_parts = rows.parts.count;
  rows.slice.part_begin = rows.part_begin.data();

  const std::int64_t n = geometry.in_features;
  rows.weight = backend::Array<float>(context, n * rows.slice.width);
  const backend::DeviceView<float> source(context, weight.subspan(static_cast<std::size_t>(rows.parts.row_begin * n),
                                                                  static_cast<std::size_t>(rows.parts.rows * n)));
  const backend::DeviceView<std::int32_t> order(context, perm);
  context.slice().transpose(context.exec(), rows.slice, source.data(), order.data(), rows.weight.data());
  return rows;
}

std::vector<double> sum_over_parts(backend::Context& context, core::Team& team, std::int64_t n_parts,
                                   std::int64_t my_parts, std::int64_t size,
                                   const std::function<void(bool combined, double* sums)>& fill) {
  team.check_stop();
  const bool alone = team.size() == 1;
  backend::Array<double> sums(context, alone ? size : my_parts * size);
  fill(alone, sums.data());
  const std::vector<double> mine = sums.to_host();
  return alone ? mine : team.sum(mine, size, n_parts);
}

}  // namespace voronoi::quant
