#include "quant/footprint.h"

#include "core/packing.h"
#include "core/types.h"

namespace voronoi::quant {

using core::ceil_div;

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

}  // namespace voronoi::quant
