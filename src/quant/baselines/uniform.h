// What the methods of uniform codes share: the codes of whole rows, and how a team gathers them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "core/team.h"
#include "core/types.h"
#include "format/uniform.h"
#include "format/uniform_grid.h"
#include "quant/quantizer.h"

namespace voronoi::quant {

using format::UniformGrid;

/// Codes of a range of rows, processing order.
struct UniformCodes {
  UniformCodes(std::int64_t rows, std::int64_t in_features, std::int64_t group_size);
  void put(std::int64_t at, const UniformGrid& grid);

  std::vector<std::uint16_t> codes;  ///< [rows, in]
  std::vector<float> scale;          ///< [rows, n_groups]
  std::vector<std::uint16_t> zeros;  ///< [rows, n_groups]
};

/// Columns a group in effect: group_size <= 0 or beyond the row means one group a row.
constexpr std::int64_t effective_group_size(std::int64_t group_size, std::int64_t in_features) {
  return group_size <= 0 || group_size >= in_features ? in_features : group_size;
}

/// Rows [begin, end) of a team member: whole tiles, so that a tile's arithmetic does not depend on the team.
struct RowRange {
  std::int64_t begin = 0, end = 0;
};
inline constexpr std::int64_t kRowTile = 128;
RowRange team_rows(const core::Team& team, std::int64_t out_features);

/// Rows of n small values, each packed on its own.
std::vector<std::uint32_t> pack_rows(const std::vector<std::uint16_t>& values, std::int64_t rows, std::int64_t n,
                                     int bits);

/// use(rows, bytes) for each member's part in order: how many rows are its (team_rows), and what it gave. Collective.
void for_each_member(core::Team& team, std::span<const std::byte> mine, std::int64_t out_features,
                     const std::function<void(std::int64_t, std::span<const std::byte>)>& use);

/// Packs this member's rows (team_rows) and gathers everyone's. Collective. column_scale: as the format has it.
format::UniformEncoding gather_encoding(core::Team& team, const QuantInput& input, int bits, std::int64_t group_size,
                                        const std::vector<std::uint16_t>& perm, const UniformCodes& mine,
                                        const std::vector<std::uint16_t>& column_scale = {});

/// Collective: relative_hessian_error of the decoded encoding.
double encoding_error(backend::Context& context, core::Team& team, const QuantInput& input,
                      const format::Encoding& encoding);

/// Throws InternalError unless extents, weight and Hessian of the input fit each other.
void check_input(const QuantInput& input);

}  // namespace voronoi::quant
