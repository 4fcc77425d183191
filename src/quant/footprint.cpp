#include "quant/footprint.h"

#include "core/packing.h"
#include "core/types.h"
#include "format/uniform.h"
#include "format/vptq.h"
#include "quant/baselines/uniform.h"
#include "quant/vq/layout.h"

namespace voronoi::quant {
namespace {

bool is_uniform(const QuantParameters& parameters) { return parameters.method == "rtn" || parameters.method == "gptq"; }

}  // namespace

StoredBits planned_bits(const QuantParameters& parameters, std::int64_t out_features, std::int64_t in_features) {
  StoredBits stored;
  if (is_uniform(parameters)) {
    format::UniformExtents extents;
    extents.out_features = out_features;
    extents.in_features = in_features;
    extents.bits = parameters.bits;
    extents.group_size = effective_group_size(parameters.group_size, in_features);
    const format::UniformElements due = elements_due(extents, parameters.method == "gptq" && parameters.act_order);
    stored.indices = 32 * due.codes;
    stored.scales = 32 * due.zeros + 16 * due.scale;
    stored.permutation = 16 * due.perm;
    return stored;
  }
  const VqGeometry geometry = make_geometry(parameters, out_features, in_features);
  format::VqExtents extents;
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
  const format::VqElements due = elements_due(extents, geometry.groups > 1 || geometry.outlier_size > 0);
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
