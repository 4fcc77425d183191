#include "quant/baselines/bitdistiller.h"

#include <vector>

#include "quant/baselines/clip_search.h"
#include "quant/baselines/grids.h"
#include "quant/baselines/uniform.h"
#include "quant/baselines/uniform_method.h"

namespace voronoi::quant {
namespace {

/// Both ends apart from each other; the widest first, then those with the lower end clipped.
struct ClipsOfBothEnds {
  static constexpr int kCount = kClips * kClips;
  static constexpr bool kClamps = false;
  static constexpr int low(int clip) { return clip % kClips; }
  static constexpr int high(int clip) { return clip / kClips; }
  static GroupEnds ends(const GroupEnds& group, int clip) {
    return {group.low * clip_factor(low(clip)), group.high * clip_factor(high(clip))};
  }
};

class BitDistiller final : public UniformMethod {
 public:
  std::string_view name() const override { return "bitdistiller"; }
  std::string_view summary() const override { return "rtn with both ends of each group's grid clipped as H asks for"; }
  OperatorWork work(const QuantParameters& parameters, std::int64_t out_features,
                    std::int64_t in_features) const override {
    OperatorWork work = UniformMethod::work(parameters, out_features, in_features);
    const std::int64_t group = effective_group_size(parameters.get<UniformParameters>().group_size, in_features);
    work.column_loop += clip_work(out_features, in_features, group, ClipsOfBothEnds::kCount);
    return work;
  }
  void consider_memory(const QuantParameters& parameters, const OperatorOnRank& r,
                       core::MemoryPeak& peak) const override {
    const std::int64_t group = effective_group_size(parameters.get<UniformParameters>().group_size, r.in_features);
    peak.consider(r.held_bytes + code_bytes(parameters, r) + clip_tile_bytes(r, group), "clips of " + r.name);
    UniformMethod::consider_memory(parameters, r, peak);
  }
  QuantResult quantize(backend::Context& context, core::Team& team, const QuantInput& input,
                       const QuantParameters& parameters) const override {
    check_input(input);
    const auto& p = parameters.get<UniformParameters>();
    const std::int64_t group_size = effective_group_size(p.group_size, input.in_features);
    const auto [codes, chosen] =
        clipped_codes<ClipsOfBothEnds>(context, team, input, group_size, UniformGrids(p.bits, input.stored_dtype), {});
    QuantResult result;
    result.encoding = format::to_encoding(gather_encoding(team, input, p.bits, group_size, {}, codes));
    result.relative_error = encoding_error(context, team, input, result.encoding);
    // Means of the factors of all groups, at both ends.
    double low = 0, high = 0, n_grids = 0;
    for (int clip = 0; clip < ClipsOfBothEnds::kCount; ++clip) {
      const auto count = static_cast<double>(chosen[static_cast<std::size_t>(clip)]);
      low += count * ClipsOfBothEnds::low(clip);
      high += count * ClipsOfBothEnds::high(clip);
      n_grids += count;
    }
    result.statistics["clip_low"] = 1 - low / n_grids / 20;
    result.statistics["clip_high"] = 1 - high / n_grids / 20;
    return result;
  }

 protected:
  double products() const override { return 2; }
  bool stores_order(const QuantParameters& /*parameters*/) const override { return false; }
};

}  // namespace

const Method& bitdistiller_method() {
  static const BitDistiller method;
  return method;
}

}  // namespace voronoi::quant
