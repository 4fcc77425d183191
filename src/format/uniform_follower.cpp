#include "format/uniform_follower.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>

#include "core/error.h"
#include "core/index.h"
#include "core/packing.h"
#include "format/uniform_grid.h"
#include "kernels/kernels.h"

namespace voronoi::format {

using core::index;

namespace {

/// Half a cell, less what rounding may take of it.
constexpr float kInner = 0.49F;

}  // namespace

UniformFollower::UniformFollower(backend::Context& context, const Encoding& encoding)
    : TunedArrays(context, encoding, {}, {"codes", "scale", "zeros"}),
      extents_(uniform_view(encoding)),
      perm_(on_host<std::uint16_t>("perm")) {}

std::int64_t UniformFollower::n_groups() const { return core::ceil_div(extents_.in_features, extents_.group_size); }

std::vector<float> UniformFollower::stored_column_scales() const {
  const auto natural = on_host<std::uint16_t>("column_scale");
  std::vector<float> stored(index(extents_.in_features), 1.0F);
  for (std::size_t j = 0; j < stored.size() && !natural.empty(); ++j)
    stored[j] = core::from_bits16(extents_.dtype, natural[perm_.empty() ? j : perm_[j]]);
  return stored;
}

FollowedWeight UniformFollower::start(core::ThreadPool& pool, std::span<const float> weight) const {
  const std::int64_t n = extents_.in_features, groups = n_groups();
  const int bits = static_cast<int>(extents_.bits);
  const auto codes = on_host<std::uint32_t>("codes"), zeros = on_host<std::uint32_t>("zeros");
  const auto scale = on_host<std::uint16_t>("scale");
  const std::vector<float> column_scale = stored_column_scales();
  const std::int64_t words = core::packed_words(n, bits), zero_words = core::packed_words(groups, bits);
  const auto most = static_cast<float>((std::int64_t{1} << bits) - 1);
  FollowedWeight followed;
  followed.values.resize(index(extents_.out_features * n));
  followed.margins.resize(index(extents_.out_features * groups * 2));
  pool.parallel_for(extents_.out_features, [&](std::int64_t row) {
    std::vector<std::uint32_t> of_row(index(n)), zeros_of_row(index(groups));
    core::unpack_row(std::span(codes).subspan(index(row * words), index(words)), bits, of_row);
    core::unpack_row(std::span(zeros).subspan(index(row * zero_words), index(zero_words)), bits, zeros_of_row);
    for (std::int64_t g = 0; g < groups; ++g) {
      const UniformGrid grid{core::from_bits16(extents_.dtype, scale[index(row * groups + g)]),
                             static_cast<float>(zeros_of_row[index(g)])};
      const float low = grid.value(0), high = grid.value(most);
      float least = 0, largest = 0;
      for (std::int64_t j = g * extents_.group_size; j < std::min(n, (g + 1) * extents_.group_size); ++j) {
        const std::int64_t at = row * n + (perm_.empty() ? j : perm_[index(j)]);
        const auto code = static_cast<float>(of_row[index(j)]);
        float value = grid.value(code);
        // Beyond the grid's ends nothing is rounded: the cells end there.
        if (!weight.empty())
          value = std::clamp(weight[index(at)] / column_scale[index(j)], code > 0 ? grid.value(code - kInner) : low,
                             code < most ? grid.value(code + kInner) : high);
        followed.values[index(at)] = value * column_scale[index(j)];
        least = std::min(least, value);
        largest = std::max(largest, value);
      }
      float* margins = followed.margins.data() + (row * groups + g) * 2;
      margins[0] = least - low;
      margins[1] = high - largest;
    }
  });
  return followed;
}

void UniformFollower::follow(core::ThreadPool& pool, const FollowedWeight& followed) {
  const std::int64_t n = extents_.in_features, groups = n_groups();
  VORONOI_REQUIRE(std::ssize(followed.values) == extents_.out_features * n &&
                      std::ssize(followed.margins) == extents_.out_features * groups * 2,
                  "a weight of another linear");
  const int bits = static_cast<int>(extents_.bits);
  const std::int64_t words = core::packed_words(n, bits), zero_words = core::packed_words(groups, bits);
  const auto most = static_cast<float>((std::int64_t{1} << bits) - 1);
  std::vector<std::uint32_t> codes(index(extents_.out_features * words)),
      zeros(index(extents_.out_features * zero_words));
  std::vector<std::uint16_t> scale(index(extents_.out_features * groups));
  const std::vector<float> column_scale = stored_column_scales();
  pool.parallel_for(extents_.out_features, [&](std::int64_t row) {
    std::vector<float> stored(index(n));
    for (std::int64_t j = 0; j < n; ++j)
      stored[index(j)] =
          followed.values[index(row * n + (perm_.empty() ? j : perm_[index(j)]))] / column_scale[index(j)];
    std::vector<std::uint32_t> of_row(index(n)), zeros_of_row(index(groups));
    for (std::int64_t g = 0; g < groups; ++g) {
      const std::int64_t begin = g * extents_.group_size, end = std::min(n, begin + extents_.group_size);
      const auto [least, largest] = std::minmax_element(stored.begin() + begin, stored.begin() + end);
      const float* margins = followed.margins.data() + (row * groups + g) * 2;
      const UniformGrid grid = UniformGrid::fit(std::min(*least, 0.0F) - margins[0],
                                                std::max(*largest, 0.0F) + margins[1], most, extents_.dtype);
      scale[index(row * groups + g)] = core::to_bits16(extents_.dtype, grid.scale);
      zeros_of_row[index(g)] = static_cast<std::uint32_t>(grid.zero);
      for (std::int64_t j = begin; j < end; ++j)
        of_row[index(j)] = static_cast<std::uint32_t>(grid.code(stored[index(j)], most));
    }
    core::pack_row(of_row, bits, std::span(codes).subspan(index(row * words), index(words)));
    core::pack_row(zeros_of_row, bits, std::span(zeros).subspan(index(row * zero_words), index(zero_words)));
  });
  set_fixed("codes", codes);
  set_fixed("scale", scale);
  set_fixed("zeros", zeros);
}

void UniformFollower::decode(backend::Context& context, const float* /*parameters*/, float* weight) const {
  kernels::PackedUniform packed = packed_extents(extents_);
  packed.codes = fixed<std::uint32_t>("codes");
  packed.zeros = fixed<std::uint32_t>("zeros");
  packed.scale = fixed<std::uint16_t>("scale");
  packed.perm = fixed<std::uint16_t>("perm");
  packed.column_scale = fixed<std::uint16_t>("column_scale");
  context.uniform().decode_f32(context.exec(), packed, weight);
}

std::unique_ptr<UniformFollower> make_follower(backend::Context& context, const Encoding& encoding) {
  if (encoding.format != &uniform_format()) return nullptr;
  return std::make_unique<UniformFollower>(context, encoding);
}

}  // namespace voronoi::format
