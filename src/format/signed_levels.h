// Codes of a table of levels, with two scales a row and group of columns: w = above * level where the level is not
// negative, w = below * level where it is; where the grids are those of scaled columns, times a scale a column.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/types.h"
#include "format/fields.h"
#include "format/format.h"
#include "format/level_tables.h"
#include "kernels/signed_levels.h"

namespace voronoi::format {

struct SignedLevelsExtents {
  std::int64_t out_features = 0, in_features = 0;
  std::int64_t bits = 0;        ///< of a code
  std::int64_t group_size = 0;  ///< columns a group, in processing order; the last group may be shorter
  std::int64_t table = 0;       ///< a LevelTable, which has levels of these bits
  core::DType dtype = core::DType::f16;
  bool operator==(const SignedLevelsExtents&) const = default;
};

template <template <class> class Array>
struct SignedLevelsFields : SignedLevelsExtents {
  Array<std::uint32_t> codes;  ///< [out, ceil(in*bits/32)] packed LSB first, processing order: places in the table
  Array<std::uint16_t> scale;  ///< [out, n_groups, 2] bits of dtype: above, below
  Array<std::uint16_t> perm;   ///< [in] or empty: processing position -> natural column
  Array<std::uint16_t> column_scale;  ///< [in] or empty (all 1): bits of dtype, positive, natural column order
  bool operator==(const SignedLevelsFields&) const = default;

  static void for_each_attribute(auto& e, const auto& visit) {
    visit("bits", e.bits);
    visit("group_size", e.group_size);
    visit("table", e.table);
  }
  static void for_each_array(auto& e, const auto& visit) {
    using core::DType;
    using core::Shape;
    visit("codes", e.codes, DType::u32, [&e] { return Shape{e.out_features, columns_of(e.codes, e.out_features)}; });
    visit("scale", e.scale, e.dtype, [&e] {
      return Shape{e.out_features, columns_of(e.scale, 2 * e.out_features), 2};
    });
    visit("perm", e.perm, DType::u16, [&e] { return Shape{e.in_features}; });
    visit("column_scale", e.column_scale, e.dtype, [&e] { return Shape{e.in_features}; });
  }

  SignedLevelsFields<View> view() const { return {*this, codes, scale, perm, column_scale}; }
};

/// What a method fills.
using SignedLevelsEncoding = SignedLevelsFields<Owned>;
/// The same, in the memory of an encoding.
using SignedLevelsView = SignedLevelsFields<View>;

const Format& signed_levels_format();

Encoding to_encoding(const SignedLevelsEncoding& fields);
/// Of an encoding of signed_levels_format() without a problem, which must outlive it.
SignedLevelsView signed_levels_view(const Encoding& encoding);

/// As find_problem(const Encoding&).
std::string find_problem(const SignedLevelsView& fields);
/// The extents alone; when there is no problem, no product of them overflows.
std::string find_extent_problem(const SignedLevelsExtents& extents);

/// Elements due in the arrays: one arithmetic for stored encodings, their checks, and plans.
struct SignedLevelsElements {
  std::int64_t codes = 0;                              ///< of 32 bits, padding included
  std::int64_t scale = 0, perm = 0, column_scale = 0;  ///< of 16 bits
};
/// Looks at the extents alone, which must be valid; with_perm: whether the column order is stored, with_column_scale:
/// whether scales of columns are.
SignedLevelsElements elements_due(const SignedLevelsExtents& extents, bool with_perm, bool with_column_scale);

}  // namespace voronoi::format
