#include "quant/baselines/awq.h"

#include <algorithm>
#include <memory>

#include "quant/baselines/grids.h"
#include "quant/baselines/uniform_method.h"

namespace voronoi::quant {
namespace {

class Awq final : public UniformMethod {
 public:
  std::string_view name() const override { return "awq"; }
  std::string_view summary() const override {
    return "rtn behind scales of the columns that their inputs' size chooses, groups clipped";
  }
  const std::vector<Parameter>& parameters() const override {
    static const std::vector<Parameter> all = [this] {
      std::vector<Parameter> declared = UniformMethod::parameters();
      declared.push_back(column_scales_parameter());
      return declared;
    }();
    return all;
  }
  std::string setting(const QuantParameters& parameters) const override {
    return UniformMethod::setting(parameters) + ", column scales " + parameters.get<AwqParameters>().column_scales;
  }
  StoredBits stored_bits(const QuantParameters& parameters, std::int64_t out_features,
                         std::int64_t in_features) const override {
    StoredBits stored = UniformMethod::stored_bits(parameters, out_features, in_features);
    if (changes_site(parameters)) stored.scales += 16 * in_features;
    return stored;
  }
  std::optional<UniformLayout> uniform_layout(const QuantParameters& parameters) const override {
    std::optional<UniformLayout> layout = UniformMethod::uniform_layout(parameters);
    layout->scaled_everywhere = parameters.get<AwqParameters>().column_scales == "all";
    return layout;
  }
  /// Without the search for scales, which takes as long as twenty roundings of the whole site.
  QuantParameters quick_setting(const QuantParameters& base) const override {
    QuantParameters quick = base;
    quick.get<AwqParameters>().column_scales = "none";
    return quick;
  }
  OperatorWork work(const QuantParameters& parameters, std::int64_t out_features,
                    std::int64_t in_features) const override {
    OperatorWork work = UniformMethod::work(parameters, out_features, in_features);
    const std::int64_t group = effective_group_size(parameters.get<UniformParameters>().group_size, in_features);
    work.column_loop += clip_work(out_features, in_features, group, ClipsOfMagnitude::kCount);
    if (changes_site(parameters)) work.column_loop += scale_search_work(out_features, in_features);
    return work;
  }
  void consider_memory(const QuantParameters& parameters, const OperatorOnRank& r,
                       core::MemoryPeak& peak) const override {
    const std::int64_t group = effective_group_size(parameters.get<UniformParameters>().group_size, r.in_features);
    peak.consider(r.held_bytes + code_bytes(parameters, r) + clip_tile_bytes(r, group), "clips of " + r.name);
    UniformMethod::consider_memory(parameters, r, peak);
  }
  bool changes_site(const QuantParameters& parameters) const override {
    return parameters.get<AwqParameters>().column_scales != "none";
  }
  std::unique_ptr<SiteState> prepare_site(backend::Context& context, core::Team& team, SiteInput& site,
                                          const QuantParameters& parameters) const override {
    return prepare_awq_site(context, team, site, parameters, [&](const SiteLinear& linear) {
      return uniform_rounding(linear.parameters != nullptr ? *linear.parameters : parameters, site.in_features,
                              site.stored_dtype, linear.name);
    });
  }
  std::int64_t preparation_bytes(const QuantParameters& /*parameters*/, std::int64_t out_features,
                                 std::int64_t in_features) const override {
    return scale_search_bytes(out_features, in_features);
  }
  std::string where_no_scale_folds(const QuantParameters& parameters) const override {
    return text_where_no_scale_folds(parameters);
  }
  QuantResult quantize(backend::Context& context, core::Team& team, const QuantInput& input,
                       const QuantParameters& parameters) const override {
    check_input(input);
    const auto& p = parameters.get<UniformParameters>();
    const std::int64_t group_size = effective_group_size(p.group_size, input.in_features);
    // Of ones where a site has none: what is stored does not depend on the site.
    const auto scale = changes_site(parameters) ? column_scale_bits(input) : std::vector<std::uint16_t>();
    QuantResult result;
    const UniformCodes codes = awq_codes(context, team, input, group_size, UniformGrids(p.bits, input.stored_dtype),
                                         column_scale_values(input, scale), result);
    result.encoding = format::to_encoding(gather_encoding(team, input, p.bits, group_size, {}, codes, scale));
    result.relative_error = encoding_error(context, team, input, result.encoding);
    return result;
  }

 protected:
  double products() const override { return 2; }
  bool stores_order(const QuantParameters& /*parameters*/) const override { return false; }
};

}  // namespace

Parameter column_scales_parameter() {
  return choice_parameter("column-scales",
                          "foldable: columns are scaled where the scale folds into what computes the input, as AWQ's "
                          "program does; all: everywhere; none: nowhere",
                          &AwqParameters::column_scales, {"foldable", "all", "none"});
}

bool scales_columns(const QuantParameters& parameters, const SiteInput& site) {
  const std::string& where = parameters.get<AwqParameters>().column_scales;
  return where == "all" || (where == "foldable" && site.input_scale_folds);
}

std::string text_where_no_scale_folds(const QuantParameters& parameters) {
  return parameters.get<AwqParameters>().column_scales == "foldable"
             ? "no column scales, which would not fold into what computes the input (--column-scales all has them)"
             : "";
}

std::unique_ptr<SiteState> prepare_awq_site(backend::Context& context, core::Team& team, const SiteInput& site,
                                            const QuantParameters& parameters,
                                            const std::function<RoundRow(const SiteLinear&)>& round_of) {
  if (!scales_columns(parameters, site)) return nullptr;
  auto state = std::make_unique<AwqSite>();
  state->scale = find_input_scale(context, team, site, round_of);
  return state;
}

std::vector<std::uint16_t> column_scale_bits(const QuantInput& input) {
  if (const auto* site = dynamic_cast<const AwqSite*>(input.site)) return site->scale.factor;
  return std::vector<std::uint16_t>(core::index(input.in_features), core::to_bits16(input.stored_dtype, 1.0F));
}

std::vector<float> column_scale_values(const QuantInput& input, std::span<const std::uint16_t> bits) {
  std::vector<float> values(bits.size());
  std::transform(bits.begin(), bits.end(), values.begin(),
                 [&](std::uint16_t value) { return core::from_bits16(input.stored_dtype, value); });
  return values;
}

GroupEnds ClipsOfMagnitude::ends(const GroupEnds& group, int clip) {
  const float most = std::max(-group.low, group.high) * (1.0F - static_cast<float>(clip) / 20.0F);
  return {std::max(group.low, -most), std::min(group.high, most)};
}

bool is_clipped(std::string_view linear) {
  const std::string_view last = linear.substr(linear.rfind('.') + 1);
  return !last.starts_with("q_") && !last.starts_with("k_") && last.find("qkv") == std::string_view::npos;
}

const Method& awq_method() {
  static const Awq method;
  return method;
}

}  // namespace voronoi::quant
