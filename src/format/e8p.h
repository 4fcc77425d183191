// Lattice codes between two rotations (QuIP#, arXiv 2402.04396): W = T_out^T Q T_in, Q = scale * (codewords of E8P, and
// of the residual's codebook at 3 and 4 bits), a code for 8 weights of a row.
#pragma once

#include <cstdint>
#include <string>

#include "core/types.h"
#include "format/fields.h"
#include "format/format.h"
#include "kernels/e8p.h"

namespace voronoi::format {

struct E8pExtents {
  std::int64_t out_features = 0, in_features = 0;
  std::int64_t bits = 2;  ///< a weight: 2 E8P; 3 with a residual in E81B; 4 with one in E8P
  core::DType dtype = core::DType::f16;
  std::int64_t n_groups() const { return core::ceil_div(in_features, std::int64_t{kernels::e8p::kDim}); }
  bool operator==(const E8pExtents&) const = default;
};

template <template <class> class Array>
struct E8pFields : E8pExtents {
  Array<std::uint16_t> codes;         ///< [out, ceil(in / 8)]
  Array<std::uint8_t> e8_residual;    ///< the same shape at 3 bits
  Array<std::uint16_t> e8p_residual;  ///< the same shape at 4 bits
  /// Bits of T's signs, [ceil(in / 32)] and [ceil(out / 32)]; empty: the side is not turned. Bits past the last
  /// coordinate are 0.
  Array<std::uint32_t> in_signs, out_signs;
  Array<float> scale;  ///< [1]
  /// F16, [in] and [out]: what the columns and the rows of T_out^T Q T_in are multiplied by; empty: ones, until they
  /// are tuned.
  Array<std::uint16_t> in_factor, out_factor;
  bool operator==(const E8pFields&) const = default;

  static void for_each_attribute(auto& e, const auto& visit) { visit("bits", e.bits); }
  static void for_each_array(auto& e, const auto& visit) {
    using core::DType;
    using core::Shape;
    const auto shape = [&e] { return Shape{e.out_features, e.n_groups()}; };
    visit("codes", e.codes, DType::u16, shape);
    visit("e8_residual", e.e8_residual, DType::u8, shape);
    visit("e8p_residual", e.e8p_residual, DType::u16, shape);
    visit("in_signs", e.in_signs, DType::u32, [&e] { return Shape{std::ssize(e.in_signs)}; });
    visit("out_signs", e.out_signs, DType::u32, [&e] { return Shape{std::ssize(e.out_signs)}; });
    visit("scale", e.scale, DType::f32, [] { return Shape{1}; });
    visit("in_factor", e.in_factor, DType::f16, [&e] { return Shape{e.in_features}; });
    visit("out_factor", e.out_factor, DType::f16, [&e] { return Shape{e.out_features}; });
  }
};

/// What a method fills.
using E8pEncoding = E8pFields<Owned>;
/// The same, in the memory of an encoding.
using E8pView = E8pFields<View>;

const Format& e8p_format();

Encoding to_encoding(const E8pEncoding& fields);
/// Of an encoding of e8p_format() without a problem, which must outlive it.
E8pView e8p_view(const Encoding& encoding);

/// As find_problem(const Encoding&).
std::string find_problem(const E8pView& fields);
std::string find_extent_problem(const E8pExtents& extents);

/// Elements due in the arrays, of extents without a problem, where both sides are turned: one arithmetic for stored
/// encodings, their checks, and plans.
struct E8pElements {
  std::int64_t codes = 0;                          ///< of 16 bits
  std::int64_t e8_residual = 0, e8p_residual = 0;  ///< of 8 and 16 bits
  std::int64_t in_signs = 0, out_signs = 0;        ///< of 32 bits
  std::int64_t scale = 1;                          ///< of 32 bits
};
E8pElements elements_due(const E8pExtents& extents);

}  // namespace voronoi::format
