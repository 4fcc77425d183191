// Uniform quantization, asymmetric: w = scale * (code - zero), a scale and zero a row and group of columns; where the
// grids are those of scaled columns, times a scale a column.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/types.h"
#include "format/fields.h"
#include "format/format.h"
#include "kernels/uniform.h"

namespace voronoi::format {

struct UniformExtents {
  std::int64_t out_features = 0, in_features = 0;
  std::int64_t bits = 0;        ///< of a code and of a zero
  std::int64_t group_size = 0;  ///< columns a group, in processing order; the last group may be shorter
  core::DType dtype = core::DType::f16;
  bool operator==(const UniformExtents&) const = default;
};

template <template <class> class Array>
struct UniformFields : UniformExtents {
  Array<std::uint32_t> codes;         ///< [out, ceil(in*bits/32)] packed LSB first, processing order
  Array<std::uint16_t> scale;         ///< [out, n_groups] bits of dtype
  Array<std::uint32_t> zeros;         ///< [out, ceil(n_groups*bits/32)] packed
  Array<std::uint16_t> perm;          ///< [in] or empty: processing position -> natural column
  Array<std::uint16_t> column_scale;  ///< [in] or empty (all 1): bits of dtype, positive, natural column order
  bool operator==(const UniformFields&) const = default;

  static void for_each_attribute(auto& e, const auto& visit) {
    visit("bits", e.bits);
    visit("group_size", e.group_size);
  }
  static void for_each_array(auto& e, const auto& visit) {
    using core::DType;
    using core::Shape;
    visit("codes", e.codes, DType::u32, [&e] { return Shape{e.out_features, columns_of(e.codes, e.out_features)}; });
    visit("scale", e.scale, e.dtype, [&e] { return Shape{e.out_features, columns_of(e.scale, e.out_features)}; });
    visit("zeros", e.zeros, DType::u32, [&e] { return Shape{e.out_features, columns_of(e.zeros, e.out_features)}; });
    visit("perm", e.perm, DType::u16, [&e] { return Shape{e.in_features}; });
    visit("column_scale", e.column_scale, e.dtype, [&e] { return Shape{e.in_features}; });
  }

  UniformFields<View> view() const { return {*this, codes, scale, zeros, perm, column_scale}; }
};

/// What a method fills.
using UniformEncoding = UniformFields<Owned>;
/// The same, in the memory of an encoding.
using UniformView = UniformFields<View>;

const Format& uniform_format();

/// As the kernels take it, without arrays.
kernels::PackedUniform packed_extents(const UniformExtents& e);

Encoding to_encoding(const UniformEncoding& fields);
/// Of an encoding of uniform_format() without a problem, which must outlive it.
UniformView uniform_view(const Encoding& encoding);

/// As find_problem(const Encoding&).
std::string find_problem(const UniformView& fields);
/// The extents alone; when there is no problem, no product of them overflows.
std::string find_extent_problem(const UniformExtents& extents);

/// Elements due in the arrays: one arithmetic for stored encodings, their checks, and plans.
struct UniformElements {
  std::int64_t codes = 0, zeros = 0;                   ///< of 32 bits, padding included
  std::int64_t scale = 0, perm = 0, column_scale = 0;  ///< of 16 bits
};
/// Looks at the extents alone, which must be valid; with_perm: whether the column order is stored, with_column_scale:
/// whether scales of columns are.
UniformElements elements_due(const UniformExtents& extents, bool with_perm, bool with_column_scale = false);

}  // namespace voronoi::format
