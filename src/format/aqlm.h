// Additive codes (AQLM, arXiv 2401.06118): groups of consecutive columns of a row are sums of centroids, one of each
// codebook, times the scale of the row. Codes stand as AQLM's checkpoints have them.
#pragma once

#include <cstdint>
#include <string>

#include "core/types.h"
#include "format/fields.h"
#include "format/format.h"
#include "kernels/aqlm.h"

namespace voronoi::format {

struct AqlmExtents {
  std::int64_t out_features = 0, in_features = 0;
  std::int64_t codebooks = 1;  ///< M, 1..16
  std::int64_t code_bits = 8;  ///< log2 k, 1..16
  std::int64_t in_group = 8;   ///< g, 1..1024; divides in_features
  core::DType dtype = core::DType::f16;

  std::int64_t centroids() const { return std::int64_t{1} << code_bits; }
  std::int64_t groups() const { return in_features / in_group; }  ///< of a row
  bool operator==(const AqlmExtents&) const = default;
};

template <template <class> class Array>
struct AqlmFields : AqlmExtents {
  /// [out, in / g, M]: the low code_bits bits of each are the code, the rest is theirs continued (two's complement) or
  /// anything. codes8 up to 8 bits, codes16 beyond; the other is empty.
  Array<std::uint8_t> codes8;
  Array<std::uint16_t> codes16;
  Array<std::uint16_t> codebook;  ///< [M, k, g] bits of dtype
  Array<std::uint16_t> scale;     ///< [out] bits of dtype
  bool operator==(const AqlmFields&) const = default;

  static void for_each_attribute(auto& e, const auto& visit) {
    visit("codebooks", e.codebooks);
    visit("code_bits", e.code_bits);
    visit("in_group", e.in_group);
  }
  static void for_each_array(auto& e, const auto& visit) {
    using core::DType;
    using core::Shape;
    const auto codes_shape = [&e] { return Shape{e.out_features, e.groups(), e.codebooks}; };
    visit("codes8", e.codes8, DType::u8, codes_shape);
    visit("codes16", e.codes16, DType::u16, codes_shape);
    visit("codebook", e.codebook, e.dtype, [&e] { return Shape{e.codebooks, e.centroids(), e.in_group}; });
    visit("scale", e.scale, e.dtype, [&e] { return Shape{e.out_features}; });
  }

  AqlmFields<View> view() const { return {*this, codes8, codes16, codebook, scale}; }
};

/// What a method fills.
using AqlmEncoding = AqlmFields<Owned>;
/// The same, in the memory of an encoding.
using AqlmView = AqlmFields<View>;

/// A weight is the sum of its centroids' values, from 0 in the order of the codebooks, times its row's scale; each
/// operation rounded to fp32 once, as the package `aqlm` computes it on the CPU.
const Format& aqlm_format();

Encoding to_encoding(const AqlmEncoding& fields);
/// Of an encoding of aqlm_format() without a problem, which must outlive it.
AqlmView aqlm_view(const Encoding& encoding);

/// As find_problem(const Encoding&).
std::string find_problem(const AqlmView& fields);
/// The extents alone; when there is no problem, no product of them overflows.
std::string find_extent_problem(const AqlmExtents& extents);
/// M log2 k / g.
double nominal_bits(const AqlmExtents& extents);

/// A code as it is stored: its bits, the highest one continued.
std::uint16_t stored_code(std::int64_t code_bits, std::uint32_t code);

/// Elements due in the arrays: one arithmetic for stored encodings, their checks, and plans.
struct AqlmElements {
  std::int64_t codes8 = 0;                            ///< of 8 bits
  std::int64_t codes16 = 0, codebook = 0, scale = 0;  ///< of 16 bits
};
/// Of extents without a problem.
AqlmElements elements_due(const AqlmExtents& extents);

}  // namespace voronoi::format
