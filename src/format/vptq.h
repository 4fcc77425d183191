// Vector quantization in the layout of VPTQ's public checkpoint format.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/types.h"
#include "format/fields.h"
#include "format/format.h"

namespace voronoi::format {

struct VqExtents {
  std::int64_t out_features = 0, in_features = 0;
  std::int64_t vector_length = 0, centroids = 0, residual_centroids = 0;  // v, k, kr (0 = none)
  std::int64_t groups = 1, outlier_size = 0, outlier_vector_length = 0, outlier_centroids = 0;
  core::DType dtype = core::DType::f16;

  std::int64_t group_size() const { return (in_features - outlier_size) / groups; }
  int main_bits() const;                     ///< log2 k
  int residual_bits() const;                 ///< log2 kr, 0 without a residual
  std::int64_t vector_rows() const;          ///< R = ceil(out / v)
  std::int64_t row_words() const;            ///< P: 32-bit words of a packed row
  std::int64_t outlier_vector_rows() const;  ///< ceil(out / v0), 0 without outliers
  bool operator==(const VqExtents&) const = default;
};

/// Tensors and packing as VPTQ's VQuantLinear defines them (indices [G, R, P] int32 words holding main | residual << b
/// per column, LSB first; codebooks [G, k*v]; scale and bias a column). Natural column order without perm when groups
/// == 1 and outlier_size == 0 ("absorbed"), else stored order with perm.
template <template <class> class Array>
struct VqFields : VqExtents {
  Array<std::uint32_t> indices;            ///< [G, ceil(out/v), ceil(group_size*T/32)]
  Array<std::uint16_t> codebook;           ///< [G, k, v] bits of dtype
  Array<std::uint16_t> residual_codebook;  ///< [G, kr, v]
  Array<std::uint16_t> outlier_codebook;   ///< [k0, v0]
  Array<std::uint16_t> outlier_indices;    ///< [ceil(out/v0), outlier_size]
  Array<std::uint16_t> scale, bias;        ///< [in], natural column order
  Array<std::uint16_t> perm;               ///< [in] or empty: stored column -> natural column
  bool operator==(const VqFields&) const = default;

  static void for_each_attribute(auto& e, const auto& visit) {
    visit("vector_length", e.vector_length);
    visit("centroids", e.centroids);
    visit("residual_centroids", e.residual_centroids);
    visit("groups", e.groups);
    visit("outlier_size", e.outlier_size);
    visit("outlier_vector_length", e.outlier_vector_length);
    visit("outlier_centroids", e.outlier_centroids);
  }
  static void for_each_array(auto& e, const auto& visit) {
    using core::DType;
    using core::Shape;
    visit("indices", e.indices, DType::u32, [&e] { return Shape{e.groups, e.vector_rows(), e.row_words()}; });
    visit("codebook", e.codebook, e.dtype, [&e] { return Shape{e.groups, e.centroids, e.vector_length}; });
    visit("residual_codebook", e.residual_codebook, e.dtype, [&e] {
      return Shape{e.groups, e.residual_centroids, e.vector_length};
    });
    visit("outlier_codebook", e.outlier_codebook, e.dtype, [&e] {
      return Shape{e.outlier_centroids, e.outlier_vector_length};
    });
    visit("outlier_indices", e.outlier_indices, DType::u16, [&e] {
      return Shape{columns_of(e.outlier_indices, e.outlier_size), e.outlier_size};
    });
    visit("scale", e.scale, e.dtype, [&e] { return Shape{e.in_features}; });
    visit("bias", e.bias, e.dtype, [&e] { return Shape{e.in_features}; });
    visit("perm", e.perm, DType::u16, [&e] { return Shape{e.in_features}; });
  }

  VqFields<View> view() const {
    return {*this, indices, codebook, residual_codebook, outlier_codebook, outlier_indices, scale, bias, perm};
  }
};

/// What a method fills.
using VqEncoding = VqFields<Owned>;
/// The same, in the memory of an encoding.
using VqView = VqFields<View>;

/// (main + residual) * scale + bias, each rounded to fp32 once.
const Format& vptq_format();

Encoding to_encoding(const VqEncoding& fields);
/// Of an encoding of vptq_format() without a problem, which must outlive it.
VqView vq_view(const Encoding& encoding);

/// As find_problem(const Encoding&).
std::string find_problem(const VqView& fields);
/// The extents alone; when there is no problem, no product of them overflows.
std::string find_extent_problem(const VqExtents& extents);
/// (log2 k + log2 kr) / v.
double nominal_bits(const VqExtents& extents);

/// Elements due in the arrays: one arithmetic for stored encodings, their checks, and plans.
struct VqElements {
  std::int64_t indices = 0;  ///< of 32 bits, padding included
  std::int64_t codebook = 0, residual_codebook = 0, outlier_codebook = 0, outlier_indices = 0, scale = 0, bias = 0,
               perm = 0;  ///< of 16 bits
};
/// Looks at the extents alone, which must be valid; with_perm: whether the column order is stored.
VqElements elements_due(const VqExtents& extents, bool with_perm);

}  // namespace voronoi::format
