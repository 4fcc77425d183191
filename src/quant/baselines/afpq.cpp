#include "quant/baselines/afpq.h"

#include <fmt/format.h>

#include <memory>
#include <utility>

#include "format/signed_levels.h"
#include "quant/baselines/awq.h"
#include "quant/baselines/gptq_loop.h"
#include "quant/baselines/rtn_loop.h"
#include "quant/baselines/signed_grids.h"
#include "quant/baselines/uniform_method.h"

namespace voronoi::quant {
namespace {

using format::LevelTable;

class Afpq final : public UniformMethod {
 public:
  std::string_view name() const override { return "afpq"; }
  std::string_view summary() const override {
    return "levels of normal floats or small floating-point numbers, a scale a sign and group";
  }
  const std::vector<Parameter>& parameters() const override {
    static const std::vector<Parameter> all = [this] {
      std::vector<Parameter> declared = UniformMethod::parameters();
      declared.push_back(choice_parameter("level-table",
                                          "normal: quantiles of a normal distribution, NF3 and NF4; floating: "
                                          "floating-point numbers, FP3 and FP4",
                                          &AfpqParameters::levels, {"normal", "floating"}));
      declared.push_back(choice_parameter("afpq-with",
                                          "none: every weight to the nearest level; gptq: with GPTQ's error feedback; "
                                          "awq: behind AWQ's column scales, with its clipping",
                                          &AfpqParameters::with, {"none", "gptq", "awq"}));
      declared.push_back(group_grid_parameter());
      declared.push_back(column_scales_parameter());
      return declared;
    }();
    return all;
  }
  void check(const QuantParameters& parameters, Problems& problems) const override {
    const int bits = parameters.get<UniformParameters>().bits;
    if (format::levels_of(table(parameters), bits).empty())
      problems.push_back(fmt::format("--bits: afpq has tables of 3 and 4 bits, not {}", bits));
  }
  void check_shape(const QuantParameters& parameters, std::int64_t /*out_features*/, std::int64_t in_features,
                   Problems& problems) const override {
    if (stores_order(parameters)) check_order(in_features, problems);
  }
  std::string setting(const QuantParameters& parameters) const override {
    std::string text = fmt::format("{}, {} levels", UniformMethod::setting(parameters), of(parameters).levels);
    if (with_gptq(parameters)) text += ", with gptq";
    if (with_gptq(parameters) && grid_rule(parameters) == GroupGrid::original) text += ", the original's grids";
    if (with_awq(parameters)) text += ", with awq, column scales " + parameters.get<AwqParameters>().column_scales;
    return text;
  }
  std::optional<UniformLayout> uniform_layout(const QuantParameters& /*parameters*/) const override { return {}; }

  StoredBits stored_bits(const QuantParameters& parameters, std::int64_t out_features,
                         std::int64_t in_features) const override {
    const format::SignedLevelsElements due = elements_due(extents(parameters, out_features, in_features),
                                                          stores_order(parameters), changes_site(parameters));
    StoredBits stored;
    stored.indices = 32 * due.codes;
    stored.scales = 16 * (due.scale + due.column_scale);
    stored.permutation = 16 * due.perm;
    return stored;
  }
  QuantParameters quick_setting(const QuantParameters& base) const override {
    QuantParameters quick = base;
    quick.get<AfpqParameters>().with = "none";
    return quick;
  }
  OperatorWork work(const QuantParameters& parameters, std::int64_t out_features,
                    std::int64_t in_features) const override {
    OperatorWork work = UniformMethod::work(parameters, out_features, in_features);
    const std::int64_t group = effective_group_size(parameters.get<UniformParameters>().group_size, in_features);
    if (with_awq(parameters)) work.column_loop += clip_work(out_features, in_features, group, ClipsOfMagnitude::kCount);
    if (with_gptq(parameters)) work.column_loop += product_work(out_features, in_features, 0.5);
    if (changes_site(parameters)) work.column_loop += scale_search_work(out_features, in_features);
    return work;
  }
  void consider_memory(const QuantParameters& parameters, const OperatorOnRank& r,
                       core::MemoryPeak& peak) const override {
    const std::int64_t group = effective_group_size(parameters.get<UniformParameters>().group_size, r.in_features);
    const std::int64_t held = r.held_bytes + code_bytes(parameters, r);
    if (with_gptq(parameters))
      peak.consider(held + gptq_tile_bytes(r, group, sizeof(SignedGrid)), "column loop of " + r.name);
    if (with_awq(parameters)) peak.consider(held + clip_tile_bytes(r, group), "clips of " + r.name);
    UniformMethod::consider_memory(parameters, r, peak);
  }

  bool changes_site(const QuantParameters& parameters) const override {
    return with_awq(parameters) && parameters.get<AwqParameters>().column_scales != "none";
  }
  std::unique_ptr<SiteState> prepare_site(backend::Context& context, core::Team& team, SiteInput& site,
                                          const QuantParameters& parameters) const override {
    return prepare_awq_site(context, team, site, parameters, [&](const SiteLinear& linear) {
      const QuantParameters& own = linear.parameters != nullptr ? *linear.parameters : parameters;
      return rounding_of(grids(own, site.stored_dtype),
                         effective_group_size(own.get<UniformParameters>().group_size, site.in_features), linear.name);
    });
  }
  std::int64_t preparation_bytes(const QuantParameters& /*parameters*/, std::int64_t out_features,
                                 std::int64_t in_features) const override {
    return scale_search_bytes(out_features, in_features);
  }
  std::string where_no_scale_folds(const QuantParameters& parameters) const override {
    return with_awq(parameters) ? text_where_no_scale_folds(parameters) : "";
  }

  QuantResult quantize(backend::Context& context, core::Team& team, const QuantInput& input,
                       const QuantParameters& parameters) const override {
    check_input(input);
    format::SignedLevelsExtents e = extents(parameters, input.out_features, input.in_features);
    e.dtype = input.stored_dtype;
    const SignedGrids family = grids(parameters, input.stored_dtype);
    const RowRange range = team_rows(team, input.out_features);
    QuantResult result;
    std::vector<std::uint16_t> perm, scale;
    const SignedCodes codes = [&] {
      if (with_gptq(parameters)) {
        const LoopGroups groups{e.group_size, grid_rule(parameters)};
        perm = stored_order(input, groups.grid);
        add_damping_figures(input, result);
        return gptq_codes(context, input, range, groups, family);
      }
      if (!with_awq(parameters)) return nearest_codes(context.pool(), input, range, e.group_size, family, {});
      if (changes_site(parameters)) scale = column_scale_bits(input);
      return awq_codes(context, team, input, e.group_size, family, column_scale_values(input, scale), result);
    }();
    result.encoding = format::to_encoding(gather_encoding(team, input, e, perm, scale, codes));
    result.relative_error = encoding_error(context, team, input, result.encoding);
    return result;
  }

 protected:
  double products() const override { return 2; }
  bool stores_order(const QuantParameters& parameters) const override {
    return with_gptq(parameters) && parameters.act_order && grid_rule(parameters) == GroupGrid::original;
  }
  std::pair<int, int> divided_bits() const override { return {3, 4}; }
  std::int64_t grid_bytes() const override { return sizeof(SignedGrid); }

 private:
  static const AfpqParameters& of(const QuantParameters& parameters) { return parameters.get<AfpqParameters>(); }
  static bool with_gptq(const QuantParameters& parameters) { return of(parameters).with == "gptq"; }
  static bool with_awq(const QuantParameters& parameters) { return of(parameters).with == "awq"; }
  static std::int64_t table(const QuantParameters& parameters) {
    return static_cast<std::int64_t>(of(parameters).levels == "floating" ? LevelTable::floating : LevelTable::normal);
  }
  static SignedGrids grids(const QuantParameters& parameters, core::DType dtype) {
    return {format::levels_of(table(parameters), parameters.get<UniformParameters>().bits), dtype};
  }
  static format::SignedLevelsExtents extents(const QuantParameters& parameters, std::int64_t out_features,
                                             std::int64_t in_features) {
    const auto& p = parameters.get<UniformParameters>();
    format::SignedLevelsExtents e;
    e.out_features = out_features;
    e.in_features = in_features;
    e.bits = p.bits;
    e.group_size = effective_group_size(p.group_size, in_features);
    e.table = table(parameters);
    return e;
  }
};

}  // namespace

const Method& afpq_method() {
  static const Afpq method;
  return method;
}

}  // namespace voronoi::quant
