#include "quant/baselines/rtn.h"

#include "quant/baselines/grids.h"
#include "quant/baselines/rtn_loop.h"
#include "quant/baselines/uniform_method.h"

namespace voronoi::quant {
namespace {

class Rtn final : public UniformMethod {
 public:
  std::string_view name() const override { return "rtn"; }
  std::string_view summary() const override { return "every weight to the nearest point of its group's grid"; }
  QuantResult quantize(backend::Context& context, core::Team& team, const QuantInput& input,
                       const QuantParameters& parameters) const override {
    check_input(input);
    const auto& p = parameters.get<UniformParameters>();
    const std::int64_t group_size = effective_group_size(p.group_size, input.in_features);
    const UniformCodes codes = nearest_codes(context.pool(), input, team_rows(team, input.out_features), group_size,
                                             UniformGrids(p.bits, input.stored_dtype), {});
    QuantResult result;
    result.encoding = format::to_encoding(gather_encoding(team, input, p.bits, group_size, {}, codes));
    result.relative_error = encoding_error(context, team, input, result.encoding);
    return result;
  }

 protected:
  double products() const override { return 2; }
  bool stores_order(const QuantParameters& /*parameters*/) const override { return false; }
};

}  // namespace

const Method& rtn_method() {
  static const Rtn method;
  return method;
}

}  // namespace voronoi::quant
