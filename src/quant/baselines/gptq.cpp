#include "quant/baselines/gptq.h"

#include <fmt/format.h>

#include <algorithm>
#include <vector>

#include "core/error.h"
#include "quant/baselines/gptq_loop.h"
#include "quant/baselines/grids.h"
#include "quant/baselines/uniform_method.h"

namespace voronoi::quant {
namespace {

class Gptq final : public UniformMethod {
 public:
  std::string_view name() const override { return "gptq"; }
  std::string_view summary() const override {
    return "column by column, each column's error spread over those to come";
  }
  const std::vector<Parameter>& parameters() const override {
    static const std::vector<Parameter> all = [this] {
      std::vector<Parameter> declared = UniformMethod::parameters();
      declared.push_back(group_grid_parameter());
      return declared;
    }();
    return all;
  }
  std::string setting(const QuantParameters& parameters) const override {
    return UniformMethod::setting(parameters) +
           (grid_rule(parameters) == GroupGrid::original ? ", the original's grids" : "");
  }
  void check_shape(const QuantParameters& parameters, std::int64_t /*out_features*/, std::int64_t in_features,
                   Problems& problems) const override {
    if (stores_order(parameters)) check_order(in_features, problems);
  }
  void consider_memory(const QuantParameters& parameters, const OperatorOnRank& r,
                       core::MemoryPeak& peak) const override {
    const std::int64_t group_size = effective_group_size(parameters.get<UniformParameters>().group_size, r.in_features);
    peak.consider(r.held_bytes + code_bytes(parameters, r) + gptq_tile_bytes(r, group_size, sizeof(UniformGrid)),
                  "column loop of " + r.name);
    UniformMethod::consider_memory(parameters, r, peak);
  }
  QuantResult quantize(backend::Context& context, core::Team& team, const QuantInput& input,
                       const QuantParameters& parameters) const override {
    check_input(input);
    const auto& p = parameters.get<UniformParameters>();
    const GptqSettings settings{p.bits, effective_group_size(p.group_size, input.in_features), grid_rule(parameters),
                                input.stored_dtype};
    const UniformCodes codes = gptq_codes(context, input, team_rows(team, input.out_features), settings);
    const std::vector<std::uint16_t> stored_perm = stored_order(input, settings.group_grid);
    QuantResult result;
    result.encoding =
        format::to_encoding(gather_encoding(team, input, settings.bits, settings.group_size, stored_perm, codes));
    result.relative_error = encoding_error(context, team, input, result.encoding);
    add_damping_figures(input, result);
    return result;
  }

 protected:
  double products() const override { return 2.5; }
  bool stores_order(const QuantParameters& parameters) const override {
    return parameters.act_order && grid_rule(parameters) == GroupGrid::original;
  }
};

}  // namespace

Parameter group_grid_parameter() {
  return choice_parameter("group-grid",
                          "static: grids of neighbouring columns, found before the loop; original: of columns that "
                          "follow each other in the loop, found at the start of a block",
                          &GptqParameters::group_grid, {"static", "original"});
}

GroupGrid grid_rule(const QuantParameters& parameters) {
  return parameters.get<GptqParameters>().group_grid == "original" ? GroupGrid::original : GroupGrid::fixed;
}

void check_order(std::int64_t in_features, Problems& problems) {
  constexpr std::int64_t kMostColumns = 65535;
  if (in_features > kMostColumns)
    problems.push_back(
        fmt::format("a layer of {} columns is past the {} whose order can be stored; use --group-grid static or "
                    "--act-order false",
                    in_features, kMostColumns));
}

std::vector<std::uint16_t> stored_order(const QuantInput& input, GroupGrid rule) {
  const auto& perm = input.hessian->perm;
  if (rule != GroupGrid::original || std::is_sorted(perm.begin(), perm.end())) return {};
  VORONOI_REQUIRE(input.in_features <= 65536,
                  input.name + ": a permutation of more than 65536 columns cannot be stored");
  return {perm.begin(), perm.end()};
}

void add_damping_figures(const QuantInput& input, QuantResult& result) {
  result.statistics["damping"] = input.hessian->damping;
  result.statistics["damping_steps"] = input.hessian->damping_steps;
  result.statistics["dead_columns"] = static_cast<double>(input.hessian->dead_columns);
}

UniformCodes gptq_codes(backend::Context& context, const QuantInput& input, const RowRange& range,
                        const GptqSettings& settings) {
  return gptq_codes(context, input, range, {settings.group_size, settings.group_grid},
                    UniformGrids(settings.bits, settings.scale_dtype));
}

const Method& gptq_method() {
  static const Gptq method;
  return method;
}

}  // namespace voronoi::quant
