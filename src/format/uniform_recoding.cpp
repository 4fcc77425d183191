#include "format/uniform_recoding.h"

#include <algorithm>
#include <cmath>
#include <span>

#include "core/packing.h"
#include "format/recoding.h"
#include "kernels/kernels.h"

namespace voronoi::format {
std::int64_t recode_uniform(core::ThreadPool& pool, const kernels::PackedUniform& packed, const float* scale,
                            const float* target, double share, std::vector<std::uint32_t>& codes) {
  const std::int64_t n = packed.in_features, n_groups = core::ceil_div(n, packed.group_size);
  std::vector<float> distances(at(packed.out_features * n));
  kernels::cpu().uniform.decode_tuned({&pool, nullptr}, packed, scale, distances.data());
  pool.parallel_for(packed.out_features, [&](std::int64_t row) {
    for (std::int64_t i = row * n; i < (row + 1) * n; ++i) distances[at(i)] = std::fabs(distances[at(i)] - target[i]);
  });
  const std::vector<std::int64_t> chosen = farthest(distances, share);

  std::vector<std::int64_t> place(at(n));  // natural column -> stored column
  for (std::int64_t stored = 0; stored < n; ++stored)
    place[packed.perm == nullptr ? at(stored) : packed.perm[stored]] = stored;
  const std::int64_t words = core::packed_words(n, packed.bits), zero_words = core::packed_words(n_groups, packed.bits);
  const auto most = static_cast<float>((std::int64_t{1} << packed.bits) - 1);
  std::vector<std::uint32_t> of_row(at(n)), zeros(at(n_groups));
  std::int64_t n_changed = 0;
  for (auto next = chosen.begin(); next != chosen.end();) {
    const std::int64_t row = *next / n;
    const std::span<std::uint32_t> stored_row(codes.data() + row * words, at(words));
    core::unpack_row(stored_row, packed.bits, of_row);
    core::unpack_row({packed.zeros + row * zero_words, at(zero_words)}, packed.bits, zeros);
    for (; next != chosen.end() && *next / n == row; ++next) {
      const std::int64_t stored = place[at(*next % n)], g = stored / packed.group_size;
      const float step = scale[row * n_groups + g], zero = static_cast<float>(zeros[at(g)]);
      const float level = std::nearbyint(target[*next] / step) + zero;
      if (!std::isfinite(level)) continue;
      const float code = std::clamp(level, 0.0F, most);
      if (!(std::fabs(step * (code - zero) - target[*next]) < distances[at(*next)])) continue;
      of_row[at(stored)] = static_cast<std::uint32_t>(code);
      ++n_changed;
    }
    core::pack_row(of_row, packed.bits, stored_row);
  }
  return n_changed;
}

}  // namespace voronoi::format
