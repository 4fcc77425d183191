// Trellis codes between two rotations (QTIP, arXiv 2406.11235): W = T_out^T Q T_in, Q = scale * (values of states), the
// states windows of circular strings of `bits` bits a weight, one string for each tile of rows in a column.
#pragma once

#include <cstdint>
#include <string>

#include "core/types.h"
#include "format/fields.h"
#include "format/format.h"
#include "kernels/trellis.h"

namespace voronoi::format {

struct TrellisExtents {
  std::int64_t out_features = 0, in_features = 0;
  std::int64_t bits = 2;                              ///< a weight: 1 .. kMostTrellisBits
  std::int64_t state_bits = kernels::kMostStateBits;  ///< kLeastStateBits .. kMostStateBits, 5 + 2 bits at least
  std::int64_t code = 0;                              ///< kernels::TrellisCode
  core::DType dtype = core::DType::f16;
  std::int64_t units() const { return kernels::trellis_units(out_features); }
  bool operator==(const TrellisExtents&) const = default;
};

template <template <class> class Array>
struct TrellisFields : TrellisExtents {
  Array<std::uint16_t> codes;  ///< [units, in, bits], as kernels::PackedTrellis has them
  /// Bits of T's signs, [ceil(in / 32)] and [ceil(out / 32)]; empty: the side is not turned. Bits past the last
  /// coordinate are 0.
  Array<std::uint32_t> in_signs, out_signs;
  Array<float> scale;  ///< [1]
  /// F16, [in] and [out]: what the columns and the rows of T_out^T Q T_in are multiplied by; empty: ones, until they
  /// are tuned.
  Array<std::uint16_t> in_factor, out_factor;
  bool operator==(const TrellisFields&) const = default;

  static void for_each_attribute(auto& e, const auto& visit) {
    visit("bits", e.bits);
    visit("state_bits", e.state_bits);
    visit("code", e.code);
  }
  static void for_each_array(auto& e, const auto& visit) {
    using core::DType;
    using core::Shape;
    visit("codes", e.codes, DType::u16, [&e] { return Shape{e.units(), e.in_features, e.bits}; });
    visit("in_signs", e.in_signs, DType::u32, [&e] { return Shape{std::ssize(e.in_signs)}; });
    visit("out_signs", e.out_signs, DType::u32, [&e] { return Shape{std::ssize(e.out_signs)}; });
    visit("scale", e.scale, DType::f32, [] { return Shape{1}; });
    visit("in_factor", e.in_factor, DType::f16, [&e] { return Shape{e.in_features}; });
    visit("out_factor", e.out_factor, DType::f16, [&e] { return Shape{e.out_features}; });
  }
};

/// What a method fills.
using TrellisEncoding = TrellisFields<Owned>;
/// The same, in the memory of an encoding.
using TrellisView = TrellisFields<View>;

const Format& trellis_format();

Encoding to_encoding(const TrellisEncoding& fields);
/// Of an encoding of trellis_format() without a problem, which must outlive it.
TrellisView trellis_view(const Encoding& encoding);

/// As find_problem(const Encoding&).
std::string find_problem(const TrellisView& fields);
std::string find_extent_problem(const TrellisExtents& extents);

/// Elements due in the arrays, of extents without a problem, where both sides are turned: one arithmetic for stored
/// encodings, their checks, and plans.
struct TrellisElements {
  std::int64_t codes = 0;                    ///< of 16 bits
  std::int64_t in_signs = 0, out_signs = 0;  ///< of 32 bits
  std::int64_t scale = 1;                    ///< of 32 bits
};
TrellisElements elements_due(const TrellisExtents& extents);

}  // namespace voronoi::format
