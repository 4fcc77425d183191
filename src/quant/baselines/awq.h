// AWQ (Lin et al. 2024, AWQ: Activation-aware Weight Quantization for On-Device LLM Compression and Acceleration; the
// rules are those of the authors' program, mit-han-lab/llm-awq): columns of large inputs are scaled up before they are
// rounded, by a power of the inputs' size that is found for all linears of a site together, and each group's range is
// clipped. It sees activations, we H = E[x x^T]: see find_input_scale.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <functional>
#include <limits>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/team.h"
#include "quant/baselines/clip_search.h"
#include "quant/method.h"

namespace voronoi::quant {

const Method& awq_method();

struct AwqParameters {
  std::string column_scales = "foldable";  ///< where columns are scaled
};

/// Exponents that are tried: i / kExponents, i = 0 .. kExponents - 1.
inline constexpr int kExponents = 20;

/// What find_input_scale found.
struct InputScale {
  std::vector<std::uint16_t> factor;        ///< [in] bits of the stored type: 1 / s
  int exponent = 0;                         ///< the i of it
  std::array<double, kExponents> losses{};  ///< of all candidates, in one unit
};

/// Rounds a row of a linear's scaled weights [in] to grids, in place; importance [in]: what the square of an error of
/// each counts.
using RoundRow = std::function<void(std::span<float> row, std::span<const float> importance)>;

/// The scale s = max(m^r, 1e-4) / sqrt(max s * min s) of the columns, m_j = sqrt(H_jj) and r = i / 20, whose error
/// tr(D H D^T), D = W - round(W s) / s, summed over the linears of the site, is the least; of equal ones the first. 1 /
/// s is rounded to the stored type before. Groups of linears that are clipped (is_clipped) have in round() the clip
/// whose own errors cost the least by H's diagonal: a scale that spreads a group is judged by what the clip leaves of
/// that. The program judges without clips; it has the mean of |x_j| for m_j and the error of a module's output
/// (attention, the feed-forward part) on the calibration tokens; H has the second moments alone, and of a module no
/// more than its linears. H is the plain moment of all tokens whatever metric each linear has, so that all linears find
/// the same. round_of: of a linear of the site. Rows are shared by the team; collective.
InputScale find_input_scale(backend::Context& context, core::Team& team, const SiteInput& site,
                            const std::function<RoundRow(const SiteLinear&)>& round_of);

/// Rows of uniform codes: a RoundRow for these parameters and this linear.
RoundRow uniform_rounding(const QuantParameters& parameters, std::int64_t in_features, core::DType dtype,
                          std::string_view linear);

/// "column-scales".
Parameter column_scales_parameter();
/// What SiteInput and the parameter say together.
bool scales_columns(const QuantParameters& parameters, const SiteInput& site);
/// As Method::where_no_scale_folds.
std::string text_where_no_scale_folds(const QuantParameters& parameters);
/// As Method::preparation_bytes.
std::int64_t scale_search_bytes(std::int64_t out_features, std::int64_t in_features);
/// Of find_input_scale, an operator.
Work scale_search_work(std::int64_t out_features, std::int64_t in_features);

/// What prepare_site keeps.
struct AwqSite final : SiteState {
  InputScale scale;
};
std::unique_ptr<SiteState> prepare_awq_site(backend::Context& context, core::Team& team, const SiteInput& site,
                                            const QuantParameters& parameters,
                                            const std::function<RoundRow(const SiteLinear&)>& round_of);

/// The scale of the input's site as the stored type has it; of ones where there is none.
std::vector<std::uint16_t> column_scale_bits(const QuantInput& input);
std::vector<float> column_scale_values(const QuantInput& input, std::span<const std::uint16_t> bits);

/// The magnitude of a group's weights is tried at its largest times 1, 0.95 .. 0.55.
struct ClipsOfMagnitude {
  static constexpr int kCount = 10;
  static constexpr bool kClamps = true;
  static GroupEnds ends(const GroupEnds& group, int clip);
};
/// The program leaves queries and keys unclipped, whose errors meet in a product.
bool is_clipped(std::string_view linear);

/// How rows of a linear are rounded while its site's scale is sought: in the groups' grids, which are clipped where the
/// linear's will be.
template <class Grids>
RoundRow rounding_of(const Grids& grids, std::int64_t group_size, std::string_view linear) {
  if (!is_clipped(linear))
    return [round = row_rounding(grids, group_size)](std::span<float> row, std::span<const float> /*importance*/) {
      round(row);
    };
  return [grids, group_size](std::span<float> row, std::span<const float> importance) {
    std::vector<float> clamped(core::index(group_size)), values(clamped.size()), best(clamped.size());
    for (std::size_t begin = 0; begin < row.size(); begin += clamped.size()) {
      float* w = row.data() + begin;
      const std::int64_t n = std::min(group_size, static_cast<std::int64_t>(row.size() - begin));
      const auto [low, high] = std::minmax_element(w, w + n);
      const GroupEnds group{*low, *high};
      double least = std::numeric_limits<double>::infinity();
      for (int clip = 0; clip < ClipsOfMagnitude::kCount; ++clip) {
        const GroupEnds ends = ClipsOfMagnitude::ends(group, clip);
        std::transform(w, w + n, clamped.begin(),
                       [&](float value) { return std::min(std::max(value, ends.low), ends.high); });
        grids.values(grids.fit(ends.low, ends.high), clamped.data(), n, values.data());
        float cost = 0;
        for (std::int64_t c = 0; c < n; ++c) {
          const float error = w[c] - values[core::index(c)];
          cost += importance[begin + core::index(c)] * (error * error);
        }
        if (clip > 0 && !(static_cast<double>(cost) < least)) continue;
        least = static_cast<double>(cost);
        best.swap(values);
      }
      std::copy_n(best.begin(), n, w);
    }
  };
}

/// Codes of the scaled weight, clipped or not, and the figures "scale_exponent" and "clip" of them. Collective.
template <class Grids>
typename Grids::Codes awq_codes(backend::Context& context, core::Team& team, const QuantInput& input,
                                std::int64_t group_size, const Grids& grids, std::span<const float> column_scale,
                                QuantResult& result) {
  if (const auto* site = dynamic_cast<const AwqSite*>(input.site))
    result.statistics["scale_exponent"] = static_cast<double>(site->scale.exponent) / kExponents;
  if (!is_clipped(input.name))
    return nearest_codes(context.pool(), input, team_rows(team, input.out_features), group_size, grids, column_scale);
  auto [codes, chosen] = clipped_codes<ClipsOfMagnitude>(context, team, input, group_size, grids, column_scale);
  double steps = 0, n_groups = 0;
  for (int clip = 0; clip < ClipsOfMagnitude::kCount; ++clip) {
    steps += clip * static_cast<double>(chosen[core::index(clip)]);
    n_groups += static_cast<double>(chosen[core::index(clip)]);
  }
  result.statistics["clip"] = 1 - steps / n_groups / 20;
  return std::move(codes);
}

}  // namespace voronoi::quant
