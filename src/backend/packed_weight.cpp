#include "backend/packed_weight.h"

#include "core/packing.h"

namespace voronoi::backend {
namespace {

template <class T>
Array<T> copy(Context& context, const T* host, std::int64_t n, const T*& device) {
  Array<T> array(context, std::span<const T>(host, static_cast<std::size_t>(host == nullptr ? 0 : n)));
  device = array.data();
  return array;
}

}  // namespace

PackedWeight::PackedWeight(Context& context, const PackedLinear& host) : view_(host) {
  const std::int64_t vector_rows = core::ceil_div(host.out_features, host.v);
  const std::int64_t words = core::packed_words(host.group_size, host.main_bits + host.residual_bits);
  const std::int64_t outlier_rows = host.outlier_size > 0 ? core::ceil_div(host.out_features, host.v0) : 0;
  words_ = copy(context, host.indices, host.groups * vector_rows * words, view_.indices);
  codebook_ = copy(context, host.codebook, (host.groups * host.v) << host.main_bits, view_.codebook);
  residual_codebook_ =
      copy(context, host.residual_codebook, (host.groups * host.v) << host.residual_bits, view_.residual_codebook);
  outlier_codebook_ = copy(context, host.outlier_codebook, host.k0 * host.v0, view_.outlier_codebook);
  outlier_indices_ = copy(context, host.outlier_indices, outlier_rows * host.outlier_size, view_.outlier_indices);
  scale_ = copy(context, host.scale, host.in_features, view_.scale);
  bias_ = copy(context, host.bias, host.in_features, view_.bias);
  perm_ = copy(context, host.perm, host.in_features, view_.perm);
}

std::int64_t PackedWeight::size_bytes() const {
  return 4 * words_.size() + 2 * (codebook_.size() + residual_codebook_.size() + outlier_codebook_.size() +
                                  outlier_indices_.size() + scale_.size() + bias_.size() + perm_.size());
}

}  // namespace voronoi::backend
