// What a member of a team has of an operator in GPTVQ's codes: indices of its rows, codebooks as they will be stored.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "format/gptvq.h"
#include "quant/gptvq/layout.h"

namespace voronoi::quant {

struct GptvqCodes {
  GptvqCodes(const format::GptvqExtents& extents, const GptvqGroups& groups);

  /// Of row group `group` (of the member's) and a strip.
  std::int64_t book(std::int64_t group, std::int64_t strip) const { return group * extents.strips() + strip; }
  std::span<const float> values(std::int64_t book) const {
    return std::span(book_values)
        .subspan(static_cast<std::size_t>(book * extents.book_size()), static_cast<std::size_t>(extents.book_size()));
  }
  /// r of the basis; 0: codebooks are whole.
  std::int64_t rank() const { return static_cast<std::int64_t>(basis.size()) / extents.centroids; }
  /// Rounds fitted centroids [k, d], or with a basis factors [r], to what is stored, from which values() follow as
  /// decoders make them.
  void store(std::int64_t book, std::span<const float> fitted);
  /// What is stored of a codebook as decoded: centroids [k, d] or factors [r].
  std::vector<float> stored_values(std::int64_t book) const;
  /// From now on codebooks are factors, of codebook_bits each, of the basis [r, k] that is stored so; what they were is
  /// lost, values() as well until each is stored again.
  void compress(std::span<const float> new_basis, std::int64_t codebook_bits);
  /// The codebooks [first, end) as they are stored, to come back to.
  struct Books {
    std::vector<float> values;
    std::vector<std::uint16_t> codebook, scales;
    std::vector<std::uint8_t> codebook8;
  };
  Books keep(std::int64_t first, std::int64_t end) const;
  void restore(std::int64_t first, const Books& kept);
  float scale(std::int64_t row, std::int64_t column) const {
    return block_scales.empty()
               ? 1.0F
               : block_scales[static_cast<std::size_t>(row * extents.blocks() + column / extents.scale_block)];
  }

  format::GptvqExtents extents;  ///< of the whole operator
  GptvqGroups groups;
  std::vector<std::uint16_t> indices;      ///< [rows, vectors]
  std::vector<float> book_values;          ///< [groups, strips, k, d], as decoded
  std::vector<std::uint16_t> codebook;     ///< what is stored of them, in 16 bits; empty with bytes
  std::vector<std::uint8_t> codebook8;     ///< the same as bytes
  std::vector<std::uint16_t> basis;        ///< [r, k] bits of the extents' dtype; empty: codebooks are whole
  std::vector<float> basis_values;         ///< the same, as decoded
  std::vector<std::uint16_t> book_scales;  ///< [groups, strips], with bytes
  std::vector<std::uint16_t> block_codes;  ///< [rows, blocks]; empty without block scales
  std::vector<float> block_scales;         ///< the same, as decoded
  std::vector<std::uint16_t> block_grid;   ///< [blocks, 2], of all rows
};

/// Bases and ratios, bits of the extents' dtype, for the largest magnitudes of the blocks of weight [out, in] whose
/// columns stand in the order of perm: from the least to the largest of all rows, 16 equal steps of their logarithms.
/// Blocks of zeros are not looked at.
std::vector<std::uint16_t> block_grid_of(const format::GptvqExtents& extents, std::span<const float> weight,
                                         std::span<const std::int32_t> perm);
/// The code of the scale nearest to `largest`, by logarithms.
std::uint16_t block_code(float base, float ratio, float largest);

}  // namespace voronoi::quant
