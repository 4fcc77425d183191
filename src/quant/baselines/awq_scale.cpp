// The search for the scale of a site's columns.
#include <algorithm>
#include <cmath>
#include <limits>

#include "core/bytes.h"
#include "core/error.h"
#include "core/index.h"
#include "quant/baselines/awq.h"
#include "quant/baselines/grids.h"
#include "quant/baselines/rtn_loop.h"
#include "quant/baselines/uniform_method.h"
#include "quant/row_energies.h"

namespace voronoi::quant {

using core::index;

namespace {

constexpr float kLeastPower = 1e-4F;

/// 1 / s in the stored type, positive and finite.
std::vector<std::uint16_t> inverse_scale(std::span<const float> size, int exponent, core::DType dtype) {
  const float r = static_cast<float>(exponent) / kExponents;
  std::vector<float> power(size.size());
  std::transform(size.begin(), size.end(), power.begin(),
                 [r](float m) { return std::max(std::pow(m, r), kLeastPower); });
  const auto [least, most] = std::minmax_element(power.begin(), power.end());
  const float norm = std::sqrt(*least) * std::sqrt(*most);
  const float smallest = core::from_bits16(dtype, dtype == core::DType::f16 ? 0x0400 : 0x0080),
              largest = core::from_bits16(dtype, dtype == core::DType::f16 ? 0x7BFF : 0x7F7F);
  std::vector<std::uint16_t> inverse(size.size());
  std::transform(power.begin(), power.end(), inverse.begin(),
                 [&](float p) { return core::to_bits16(dtype, std::clamp(norm / p, smallest, largest)); });
  return inverse;
}

/// The moment with its largest diagonal near 1, whatever its unit: products stay within fp32.
void bring_near_one(std::int64_t n, std::vector<float>& lower) {
  float largest = 0;
  for (std::int64_t i = 0; i < n; ++i) largest = std::max(largest, lower[index(i * (i + 3) / 2)]);
  int exponent = 0;
  std::frexp(largest, &exponent);
  if (largest > 0)
    for (float& value : lower) value = std::ldexp(value, -exponent);
}

/// The losses of one linear, all candidates.
class LinearLosses {
 public:
  /// candidates: 1 / s; importance: for each of them the Hessian's diagonal as errors of scaled weights meet it.
  LinearLosses(backend::Context& context, core::Team& team, std::int64_t n,
               std::span<const std::vector<float>> candidates, std::span<const std::vector<float>> importance,
               RowEnergies& energies)
      : context_(context), team_(team), n_(n), candidates_(candidates), importance_(importance), energies_(energies) {}

  void add(std::span<const float> weight, const RoundRow& round, std::span<double> losses) {
    const std::int64_t out = std::ssize(weight) / n_;
    const RowRange range = team_rows(team_, out);
    std::vector<double> mine;  // tile by tile, all candidates of each
    for (std::int64_t first = range.begin; first < range.end; first += kRowTile) {
      team_.check_stop();
      const std::int64_t rows = std::min(kRowTile, range.end - first);
      for (std::size_t i = 0; i < candidates_.size(); ++i)
        mine.push_back(tile_loss(weight.subspan(index(first * n_), index(rows * n_)), i, round));
    }
    std::vector<std::byte> bytes;
    core::append_bytes<double>(mine, bytes);
    for_each_member(team_, bytes, out, [&](std::int64_t rows, std::span<const std::byte> rest) {
      std::vector<double> theirs;
      core::take_values(rest, index(core::ceil_div(rows, kRowTile)) * candidates_.size(), theirs);
      for (std::size_t i = 0; i < theirs.size(); ++i) losses[i % candidates_.size()] += theirs[i];
    });
  }

 private:
  double tile_loss(std::span<const float> weight, std::size_t candidate, const RoundRow& round) {
    const std::span<const float> factor = candidates_[candidate];
    error_.resize(weight.size());
    context_.pool().parallel_for(std::ssize(weight) / n_, [&](std::int64_t row) {
      const std::span<float> values = std::span(error_).subspan(index(row * n_), index(n_));
      const std::span<const float> w = weight.subspan(index(row * n_), index(n_));
      for (std::size_t c = 0; c < w.size(); ++c) values[c] = w[c] / factor[c];
      round(values, importance_[candidate]);
      for (std::size_t c = 0; c < w.size(); ++c) values[c] = w[c] - values[c] * factor[c];
    });
    double loss = 0;
    for (const double energy : energies_.of(error_)) loss += energy;
    return loss;
  }

  backend::Context& context_;
  core::Team& team_;
  std::int64_t n_;
  std::span<const std::vector<float>> candidates_, importance_;
  RowEnergies& energies_;
  std::vector<float> error_;
};

}  // namespace

InputScale find_input_scale(backend::Context& context, core::Team& team, const SiteInput& site,
                            const std::function<RoundRow(const SiteLinear&)>& round_of) {
  const std::int64_t n = site.in_features;
  std::vector<float> lower = site.read_plain_moment ? site.read_plain_moment() : plain_moment(n, site.moments);
  VORONOI_REQUIRE(std::ssize(lower) == n * (n + 1) / 2, "a site has moments");
  std::vector<float> size(index(n));
  for (std::int64_t j = 0; j < n; ++j) size[index(j)] = std::sqrt(std::max(lower[index(j * (j + 3) / 2)], 0.0F));
  bring_near_one(n, lower);
  const backend::Array<float> h = both_triangles(context, n, lower);
  std::vector<float> diagonal(index(n));
  for (std::int64_t j = 0; j < n; ++j) diagonal[index(j)] = std::max(lower[index(j * (j + 3) / 2)], 0.0F);
  lower = {};

  std::vector<std::vector<std::uint16_t>> bits;
  std::vector<std::vector<float>> factors, importance;
  for (int i = 0; i < kExponents; ++i) {
    bits.push_back(inverse_scale(size, i, site.stored_dtype));
    factors.emplace_back(index(n));
    std::transform(bits.back().begin(), bits.back().end(), factors.back().begin(),
                   [&](std::uint16_t value) { return core::from_bits16(site.stored_dtype, value); });
    importance.emplace_back(index(n));
    std::transform(diagonal.begin(), diagonal.end(), factors.back().begin(), importance.back().begin(),
                   [](float h_jj, float factor) { return h_jj * factor * factor; });
  }
  InputScale found;
  RowEnergies energies(context, kRowTile, n, h);
  LinearLosses losses(context, team, n, factors, importance, energies);
  for (const SiteLinear& linear : site.whole.empty() ? site.linears : site.whole) {
    const std::vector<float> weight = site.read_weight(linear);
    losses.add(weight, round_of(linear), found.losses);
  }
  double least = std::numeric_limits<double>::infinity();
  for (int i = 0; i < kExponents; ++i) {
    if (!(found.losses[index(i)] < least)) continue;
    least = found.losses[index(i)];
    found.exponent = i;
  }
  found.factor = std::move(bits[index(found.exponent)]);
  return found;
}

RoundRow uniform_rounding(const QuantParameters& parameters, std::int64_t in_features, core::DType dtype,
                          std::string_view linear) {
  const auto& p = parameters.get<UniformParameters>();
  return rounding_of(UniformGrids(p.bits, dtype), effective_group_size(p.group_size, in_features), linear);
}

std::int64_t scale_search_bytes(std::int64_t out_features, std::int64_t in_features) {
  // Both triangles, and the moment they are made of; then a linear, and of a tile what is rounded, its image and both
  // on the device.
  return 4 * in_features * in_features +
         std::max(2 * in_features * in_features, 4 * out_features * in_features + 16 * kRowTile * in_features);
}

Work scale_search_work(std::int64_t out_features, std::int64_t in_features) {
  // Of memory traffic in whose time a weight is scaled and rounded with every clip.
  constexpr double kScaledRoundingBytes = 16 + 4 * (ClipsOfMagnitude::kCount - 1);
  Work work = product_work(out_features, in_features, kExponents);
  work.bytes +=
      kScaledRoundingBytes * kExponents * static_cast<double>(out_features) * static_cast<double>(in_features);
  return work;
}

}  // namespace voronoi::quant
