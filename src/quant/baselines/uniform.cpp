#include "quant/baselines/uniform.h"

#include <algorithm>
#include <string>

#include "core/bytes.h"
#include "core/error.h"
#include "core/index.h"
#include "core/packing.h"

namespace voronoi::quant {

using core::index;

namespace {

RowRange member_rows(std::int64_t rank, std::int64_t size, std::int64_t out_features) {
  const std::int64_t tiles = core::ceil_div(out_features, kRowTile);
  return {std::min(out_features, tiles * rank / size * kRowTile),
          std::min(out_features, tiles * (rank + 1) / size * kRowTile)};
}

}  // namespace

UniformCodes::UniformCodes(std::int64_t rows, std::int64_t in_features, std::int64_t group_size)
    : codes(index(rows * in_features)),
      scale(index(rows * core::ceil_div(in_features, group_size))),
      zeros(scale.size()) {}

void UniformCodes::put(std::int64_t at, const UniformGrid& grid) {
  scale[index(at)] = grid.scale;
  zeros[index(at)] = static_cast<std::uint16_t>(grid.zero);
}

std::vector<std::uint32_t> pack_rows(const std::vector<std::uint16_t>& values, std::int64_t rows, std::int64_t n,
                                     int bits) {
  const std::int64_t words = core::packed_words(n, bits);
  std::vector<std::uint32_t> packed(index(rows * words)), row_values(index(n));
  for (std::int64_t row = 0; row < rows; ++row) {
    std::copy_n(values.begin() + row * n, n, row_values.begin());
    core::pack_row(row_values, bits, std::span(packed).subspan(index(row * words), index(words)));
  }
  return packed;
}

RowRange team_rows(const core::Team& team, std::int64_t out_features) {
  return member_rows(team.rank(), team.size(), out_features);
}

void for_each_member(core::Team& team, std::span<const std::byte> mine, std::int64_t out_features,
                     const std::function<void(std::int64_t, std::span<const std::byte>)>& use) {
  const auto gathered = team.all_gather(mine);
  for (std::int64_t rank = 0; rank < team.size(); ++rank) {
    const RowRange theirs = member_rows(rank, team.size(), out_features);
    use(theirs.end - theirs.begin, gathered[index(rank)]);
  }
}

format::UniformEncoding gather_encoding(core::Team& team, const QuantInput& input, int bits, std::int64_t group_size,
                                        const std::vector<std::uint16_t>& perm, const UniformCodes& mine,
                                        const std::vector<std::uint16_t>& column_scale) {
  format::UniformEncoding encoding;
  encoding.out_features = input.out_features;
  encoding.in_features = input.in_features;
  encoding.bits = bits;
  encoding.group_size = group_size;
  encoding.dtype = input.stored_dtype;
  encoding.perm = perm;
  encoding.column_scale = column_scale;
  const std::int64_t n_groups = core::ceil_div(input.in_features, group_size);
  const RowRange range = team_rows(team, input.out_features);
  const std::int64_t rows = range.end - range.begin;

  std::vector<std::uint16_t> scale(mine.scale.size());
  std::transform(mine.scale.begin(), mine.scale.end(), scale.begin(),
                 [&](float value) { return core::to_bits16(input.stored_dtype, value); });
  std::vector<std::byte> bytes;
  core::append_bytes<std::uint32_t>(pack_rows(mine.codes, rows, input.in_features, bits), bytes);
  core::append_bytes<std::uint32_t>(pack_rows(mine.zeros, rows, n_groups, bits), bytes);
  core::append_bytes<std::uint16_t>(scale, bytes);
  for_each_member(team, bytes, input.out_features, [&](std::int64_t n, std::span<const std::byte> rest) {
    core::take_values(rest, index(n * core::packed_words(input.in_features, bits)), encoding.codes);
    core::take_values(rest, index(n * core::packed_words(n_groups, bits)), encoding.zeros);
    core::take_values(rest, index(n * n_groups), encoding.scale);
  });
  return encoding;
}

double encoding_error(backend::Context& context, core::Team& team, const QuantInput& input,
                      const format::Encoding& encoding) {
  std::vector<float> decoded(input.weight.size());
  format::decode(encoding, decoded);
  return relative_hessian_error(context, team, input.out_features, input.in_features, input.weight, decoded,
                                input.hessian->h);
}

void check_input(const QuantInput& input) {
  VORONOI_REQUIRE(input.out_features > 0 && input.in_features > 0, input.name + ": an operator needs rows and columns");
  VORONOI_REQUIRE(static_cast<std::int64_t>(input.weight.size()) == input.out_features * input.in_features,
                  input.name + ": weight is not [out_features, in_features]");
  VORONOI_REQUIRE(input.hessian != nullptr && input.hessian->n == input.in_features,
                  input.name + ": the Hessian is of another size");
}

}  // namespace voronoi::quant
