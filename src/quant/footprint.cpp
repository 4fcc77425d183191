#include "quant/footprint.h"

#include "core/packing.h"
#include "core/types.h"
#include "quant/baselines/uniform.h"
#include "quant/vq/layout.h"

namespace voronoi::quant {
namespace {

using core::ceil_div;

bool is_uniform(const QuantParameters& parameters) { return parameters.method == "rtn" || parameters.method == "gptq"; }

}  // namespace

std::int64_t VqElements::bits() const {
  return 32 * indices + 16 * (codebook + residual_codebook + outlier_codebook + outlier_indices + scale + bias + perm);
}

std::int64_t UniformElements::bits() const { return 32 * (codes + zeros) + 16 * (scale + perm); }

VqElements elements_due(const VqEncoding& e, bool with_perm) {
  VqElements due;
  due.indices =
      e.groups * ceil_div(e.out_features, e.vector_length) *
      core::packed_words(e.group_size(), core::index_bits(e.centroids) + core::index_bits(e.residual_centroids));
  due.codebook = e.groups * e.centroids * e.vector_length;
  due.residual_codebook = e.groups * e.residual_centroids * e.vector_length;
  if (e.outlier_size > 0) {
    due.outlier_codebook = e.outlier_centroids * e.outlier_vector_length;
    due.outlier_indices = ceil_div(e.out_features, e.outlier_vector_length) * e.outlier_size;
  }
  due.scale = due.bias = e.in_features;
  due.perm = with_perm ? e.in_features : 0;
  return due;
}

UniformElements elements_due(const UniformEncoding& e, bool with_perm) {
  const std::int64_t n_groups = ceil_div(e.in_features, e.group_size);
  UniformElements due;
  due.codes = e.out_features * core::packed_words(e.in_features, e.bits);
  due.zeros = e.out_features * core::packed_words(n_groups, e.bits);
  due.scale = e.out_features * n_groups;
  due.perm = with_perm ? e.in_features : 0;
  return due;
}

StoredBits planned_bits(const QuantParameters& parameters, std::int64_t out_features, std::int64_t in_features) {
  StoredBits stored;
  if (is_uniform(parameters)) {
    UniformEncoding extents;
    extents.out_features = out_features;
    extents.in_features = in_features;
    extents.bits = parameters.bits;
    extents.group_size = effective_group_size(parameters.group_size, in_features);
    const UniformElements due = elements_due(extents, parameters.method == "gptq" && parameters.act_order);
    stored.indices = 32 * due.codes;
    stored.scales = 32 * due.zeros + 16 * due.scale;
    stored.permutation = 16 * due.perm;
    return stored;
  }
  const VqGeometry geometry = make_geometry(parameters, out_features, in_features);
  VqEncoding extents;
  extents.out_features = out_features;
  extents.in_features = in_features;
  extents.vector_length = geometry.v;
  extents.centroids = geometry.k;
  extents.residual_centroids = geometry.kr;
  extents.groups = geometry.groups;
  extents.outlier_size = geometry.outlier_size;
  extents.outlier_vector_length = geometry.v0;
  extents.outlier_centroids = geometry.k0;
  // One group without outliers is stored in natural order.
  const VqElements due = elements_due(extents, geometry.groups > 1 || geometry.outlier_size > 0);
  stored.indices = 32 * due.indices + 16 * due.outlier_indices;
  stored.codebooks = 16 * (due.codebook + due.residual_codebook + due.outlier_codebook);
  stored.scales = 16 * (due.scale + due.bias);
  stored.permutation = 16 * due.perm;
  return stored;
}

double planned_nominal_bits(const QuantParameters& parameters) {
  if (is_uniform(parameters)) return parameters.bits;
  return static_cast<double>(core::index_bits(parameters.centroids) + core::index_bits(parameters.residual_centroids)) /
         static_cast<double>(parameters.vector_length);
}

}  // namespace voronoi::quant
