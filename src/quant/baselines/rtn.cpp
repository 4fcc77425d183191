#include "quant/baselines/rtn.h"

#include <algorithm>

#include "core/error.h"
#include "core/index.h"
#include "quant/baselines/uniform.h"
#include "quant/baselines/uniform_method.h"

namespace voronoi::quant {

using core::index;

namespace {

class Rtn final : public UniformMethod {
 public:
  std::string_view name() const override { return "rtn"; }
  std::string_view summary() const override { return "every weight to the nearest point of its group's grid"; }
  QuantResult quantize(backend::Context& context, core::Team& team, const QuantInput& input,
                       const QuantParameters& parameters) const override {
    check_input(input);
    const auto& p = parameters.get<UniformParameters>();
    const std::int64_t in = input.in_features, group_size = effective_group_size(p.group_size, in);
    const std::int64_t n_groups = core::ceil_div(in, group_size);
    const auto max_code = static_cast<float>((1 << p.bits) - 1);
    const RowRange range = team_rows(team, input.out_features);
    const std::int64_t rows = range.end - range.begin;
    UniformCodes codes(rows, in, group_size);
    context.pool().parallel_for(core::ceil_div(rows, kRowTile), [&](std::int64_t tile) {
      for (std::int64_t row = tile * kRowTile; row < std::min(rows, (tile + 1) * kRowTile); ++row) {
        const float* weight = input.weight.data() + (range.begin + row) * in;
        for (std::int64_t g = 0; g < n_groups; ++g) {
          const std::int64_t begin = g * group_size, end = std::min(in, begin + group_size);
          const auto [low, high] = std::minmax_element(weight + begin, weight + end);
          const UniformGrid grid = UniformGrid::fit(*low, *high, max_code, input.stored_dtype);
          codes.scale[index(row * n_groups + g)] = grid.scale;
          codes.zeros[index(row * n_groups + g)] = static_cast<std::uint16_t>(grid.zero);
          for (std::int64_t c = begin; c < end; ++c)
            codes.codes[index(row * in + c)] = static_cast<std::uint16_t>(grid.code(weight[c], max_code));
        }
      }
    });
    QuantResult result;
    result.encoding = format::to_encoding(gather_encoding(team, input, p.bits, group_size, {}, codes));
    result.relative_error = encoding_error(context, input, result.encoding);
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
