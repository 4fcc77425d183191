#include "quant/baselines/rtn.h"

#include <algorithm>

#include "core/error.h"
#include "quant/baselines/uniform.h"

namespace voronoi::quant {
namespace {

std::size_t index(std::int64_t value) { return static_cast<std::size_t>(value); }

class Rtn final : public Quantizer {
 public:
  QuantResult quantize(backend::Context& context, core::Team& team, const QuantInput& input,
                       const QuantParameters& parameters) const override {
    check_input(input);
    const std::int64_t in = input.in_features, group_size = effective_group_size(parameters.group_size, in);
    const std::int64_t n_groups = core::ceil_div(in, group_size);
    const auto max_code = static_cast<float>((1 << parameters.bits) - 1);
    const RowRange range = team_rows(team, input.out_features);
    const std::int64_t rows = range.end - range.begin;
    UniformCodes codes;
    codes.codes.resize(index(rows * in));
    codes.scale.resize(index(rows * n_groups));
    codes.zeros.resize(index(rows * n_groups));
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
    result.encoding = format::to_encoding(gather_encoding(team, input, parameters.bits, group_size, {}, codes));
    result.relative_error = encoding_error(context, input, result.encoding);
    return result;
  }
};

}  // namespace

const Quantizer& rtn_quantizer() {
  static const Rtn quantizer;
  return quantizer;
}

}  // namespace voronoi::quant
