// GPTVQ's codes: vectors of 1, 2 or 4 consecutive columns of a row, a codebook for each group of rows and strip of
// columns, in bytes or 16-bit numbers; scales of small blocks of columns on request. Codebooks of single columns may be
// compressed: few factors each, and a basis that all of them share.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "core/types.h"
#include "format/fields.h"
#include "format/format.h"
#include "kernels/gptvq.h"

namespace voronoi::format {

struct GptvqExtents {
  std::int64_t out_features = 0, in_features = 0;
  std::int64_t vector_columns = 1;  ///< d: 1, 2 or 4; divides in_features
  std::int64_t centroids = 0;       ///< k, a power of two in 2..65536
  std::int64_t group_rows = 0;      ///< that share a codebook; the last ones may be fewer
  std::int64_t group_columns = 0;   ///< likewise, stored order; a multiple of vector_columns
  std::int64_t codebook_bits = 8;   ///< of a centroid's value: 8 or 16
  std::int64_t scale_block = 0;  ///< columns that share a block scale, a multiple of vector_columns; 0: there are none
  core::DType dtype = core::DType::f16;

  int index_bits() const;
  std::int64_t vectors() const { return in_features / vector_columns; }  ///< of a row
  std::int64_t row_groups() const { return core::ceil_div(out_features, group_rows); }
  std::int64_t strips() const { return core::ceil_div(in_features, group_columns); }
  std::int64_t blocks() const { return scale_block > 0 ? core::ceil_div(in_features, scale_block) : 0; }
  std::int64_t book_size() const { return centroids * vector_columns; }
  /// Numbers stored of a codebook; rank: of a basis, 0 without one.
  std::int64_t stored_size(std::int64_t rank) const { return rank > 0 ? rank : book_size(); }
  bool operator==(const GptvqExtents&) const = default;
};

template <template <class> class Array>
struct GptvqFields : GptvqExtents {
  Array<std::uint32_t> indices;  ///< [out, ceil(vectors * index_bits / 32)] packed LSB first, stored order
  /// [row_groups, strips, k, d] bits of dtype; empty with 8 bits. With a basis of rank r: [row_groups, strips, r]
  Array<std::uint16_t> codebook;
  Array<std::uint8_t> codebook8;        ///< the same as bytes, two's complement; empty with 16 bits
  Array<std::uint16_t> codebook_scale;  ///< [row_groups, strips] bits of dtype; empty with 16 bits
  Array<std::uint16_t> codebook_basis;  ///< [r, k] bits of dtype, 1 <= r < k; empty: codebooks are not compressed
  Array<std::uint32_t> block_codes;     ///< [out, ceil(blocks * 4 / 32)] packed; empty without block scales
  Array<std::uint16_t> block_grid;      ///< [blocks, 2] base and ratio, bits of dtype; empty without block scales
  Array<std::uint16_t> perm;            ///< [in] or empty: stored column -> natural column
  bool operator==(const GptvqFields&) const = default;

  /// r of the basis; 0: there is none.
  std::int64_t rank() const { return columns_of(codebook_basis, centroids); }

  static void for_each_attribute(auto& e, const auto& visit) {
    visit("vector_columns", e.vector_columns);
    visit("centroids", e.centroids);
    visit("group_rows", e.group_rows);
    visit("group_columns", e.group_columns);
    visit("codebook_bits", e.codebook_bits);
    visit("scale_block", e.scale_block);
  }
  static void for_each_array(auto& e, const auto& visit) {
    using core::DType;
    using core::Shape;
    const auto book_shape = [&e] {
      return e.rank() > 0 ? Shape{e.row_groups(), e.strips(), e.rank()}
                          : Shape{e.row_groups(), e.strips(), e.centroids, e.vector_columns};
    };
    visit("indices", e.indices, DType::u32, [&e] {
      return Shape{e.out_features, columns_of(e.indices, e.out_features)};
    });
    visit("codebook", e.codebook, e.dtype, book_shape);
    visit("codebook8", e.codebook8, DType::u8, book_shape);
    visit("codebook_scale", e.codebook_scale, e.dtype, [&e] { return Shape{e.row_groups(), e.strips()}; });
    visit("codebook_basis", e.codebook_basis, e.dtype, [&e] { return Shape{e.rank(), e.centroids}; });
    visit("block_codes", e.block_codes, DType::u32, [&e] {
      return Shape{e.out_features, columns_of(e.block_codes, e.out_features)};
    });
    visit("block_grid", e.block_grid, e.dtype, [&e] { return Shape{e.blocks(), 2}; });
    visit("perm", e.perm, DType::u16, [&e] { return Shape{e.in_features}; });
  }

  GptvqFields<View> view() const {
    return {*this, indices, codebook, codebook8, codebook_scale, codebook_basis, block_codes, block_grid, perm};
  }
};

/// What a method fills.
using GptvqEncoding = GptvqFields<Owned>;
/// The same, in the memory of an encoding.
using GptvqView = GptvqFields<View>;

/// A weight is a centroid's value, as stored or its byte times the step (codebook_scale times kernels::kByteStep),
/// times the scale of its block, base ratio^code by squares; each operation rounded to fp32 once. With a basis, what
/// stands in the place of centroids are the codebook's factors f: centroid c is f_0 basis[0, c] + f_1 basis[1, c] + ..
/// in this order, each operation rounded to fp32, the sum to dtype.
const Format& gptvq_format();

Encoding to_encoding(const GptvqEncoding& fields);
/// Of an encoding of gptvq_format() without a problem, which must outlive it.
GptvqView gptvq_view(const Encoding& encoding);

/// One codebook of a basis [r, k]: factors [r] as decoded to centroids [k].
void expand_book(core::DType dtype, std::span<const float> factors, std::span<const float> basis,
                 std::span<float> centroids);
/// Most centroids of a codebook that is compressed.
inline constexpr std::int64_t kMostBasisCentroids = 256;

/// As find_problem(const Encoding&).
std::string find_problem(const GptvqView& fields);
/// The extents alone; when there is no problem, no product of them overflows.
std::string find_extent_problem(const GptvqExtents& extents);
/// log2 k / d.
double nominal_bits(const GptvqExtents& extents);

/// Of kernels::block_scale.
inline constexpr std::uint32_t kMostBlockCode = (1U << kernels::kBlockScaleBits) - 1;

/// Elements due in the arrays: one arithmetic for stored encodings, their checks, and plans.
struct GptvqElements {
  std::int64_t indices = 0, block_codes = 0;  ///< of 32 bits, padding included
  std::int64_t codebook = 0, codebook_scale = 0, codebook_basis = 0, block_grid = 0, perm = 0;  ///< of 16 bits
  std::int64_t codebook8 = 0;                                                                   ///< of 8 bits
};
/// Looks at the extents alone, which must be valid; with_perm: whether the column order is stored; rank: of the basis.
GptvqElements elements_due(const GptvqExtents& extents, bool with_perm, std::int64_t rank = 0);

}  // namespace voronoi::format
