#include "model/fused_experts.h"

#include <fmt/format.h>

#include "model/block_norms.h"

namespace voronoi::model {

std::map<std::string, ExpertSlice> expert_slices(
    const ModelConfig& config, const std::function<bool(const std::string&, const core::Shape&)>& is_there) {
  std::map<std::string, ExpertSlice> slices;
  const MixtureConfig& mixture = config.mixture;
  if (mixture.n_experts == 0 || mixture.storage == ExpertStorage::linears) return slices;
  const bool halves = mixture.storage == ExpertStorage::halves;
  const std::int64_t n = mixture.n_experts, inner = mixture.expert_size, hidden = config.hidden_size;
  struct Part {
    std::string linear, stored;
    std::int64_t in, columns, out, first, step;
  };
  const Part parts[] = {{mixture.gate, "gate_up_proj", hidden, 2 * inner, inner, 0, halves ? 1 : 2},
                        {mixture.up, "gate_up_proj", hidden, 2 * inner, inner, halves ? inner : 1, halves ? 1 : 2},
                        {mixture.down, "down_proj", inner, hidden, hidden, 0, 1}};
  for (std::int64_t layer = 0; layer < config.n_layers; ++layer) {
    if (!is_mixture(config, layer)) continue;
    const std::string experts = block_prefix(layer) + mixture.module + ".experts.";
    const auto add = [&](const Part& part, const char* ending, const std::string& stored, const core::Shape& shape) {
      if (!is_there(stored, shape)) return;
      for (std::int64_t e = 0; e < n; ++e)
        slices.emplace(fmt::format("{}{}.{}.{}", experts, e, part.linear, ending),
                       ExpertSlice{stored, shape, e, part.out, part.first, part.step});
    };
    for (const Part& part : parts) {
      add(part, "weight", experts + part.stored, {n, part.in, part.columns});
      if (mixture.expert_bias) add(part, "bias", experts + part.stored + "_bias", {n, part.columns});
    }
  }
  return slices;
}

}  // namespace voronoi::model
