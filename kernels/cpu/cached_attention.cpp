#include <algorithm>
#include <cmath>
#include <vector>

#include "core/error.h"
#include "core/types.h"
#include "kernels/nn.h"

namespace voronoi::kernels {

void cpu_cached_attention(const Exec& exec, const AttentionShape& shape, std::int64_t n_past, const float* q,
                          const float* k, const float* v, float* out) {
  VORONOI_REQUIRE(shape.n_sequences == 1 && n_past >= 0, "cached attention is of one sequence");
  const std::int64_t dim = shape.head_dim, heads_a_key = shape.n_heads / shape.n_kv_heads;
  const auto rounded = [&](float value) { return core::round_to(shape.compute, value); };
  exec.pool->parallel_for(shape.n_tokens * shape.n_heads, [&](std::int64_t task) {
    const std::int64_t token = task / shape.n_heads, head = task % shape.n_heads, kv = head / heads_a_key;
    const std::int64_t last = n_past + token,
                       first = shape.window > 0 ? std::max<std::int64_t>(0, last - shape.window + 1) : 0;
    std::vector<float> query(static_cast<std::size_t>(dim)), scores(static_cast<std::size_t>(last - first + 1));
    for (std::int64_t d = 0; d < dim; ++d)
      query[static_cast<std::size_t>(d)] = rounded(q[token * shape.ld_q + head * dim + d]);
    float largest = shape.sinks == nullptr ? -INFINITY : shape.sinks[head];
    for (std::int64_t key = first; key <= last; ++key) {
      const float* values = k + key * shape.ld_kv + kv * dim;
      float score = 0;
      for (std::int64_t d = 0; d < dim; ++d) score += query[static_cast<std::size_t>(d)] * rounded(values[d]);
      score *= shape.scale;
      if (shape.softcap > 0) score = shape.softcap * std::tanh(score / shape.softcap);
      scores[static_cast<std::size_t>(key - first)] = score;
      largest = std::max(largest, score);
    }
    float total = shape.sinks == nullptr ? 0 : std::exp(shape.sinks[head] - largest);
    std::vector<float> sums(static_cast<std::size_t>(dim), 0.0F);
    for (std::int64_t key = first; key <= last; ++key) {
      const float share = std::exp(scores[static_cast<std::size_t>(key - first)] - largest);
      total += share;
      const float* values = v + key * shape.ld_kv + kv * dim;
      for (std::int64_t d = 0; d < dim; ++d) sums[static_cast<std::size_t>(d)] += share * rounded(values[d]);
    }
    for (std::int64_t d = 0; d < dim; ++d)
      out[token * shape.ld_out + head * dim + d] = sums[static_cast<std::size_t>(d)] / total;
  });
}

}  // namespace voronoi::kernels
