// The feed-forward half of a block: one gated part, or a mixture of them.
#include <algorithm>
#include <numeric>
#include <utility>

#include "core/work_counts.h"
#include "model/transformer_impl.h"

namespace voronoi::model {
namespace {

/// Rows by expert: expert e has rows[first[e] .. first[e + 1]), rising, with the weight of each beside it.
struct RowsByExpert {
  std::vector<std::int64_t> first;
  std::vector<std::int32_t> row;
  std::vector<float> weight;
  std::vector<std::int32_t> places;  ///< of [n_rows, top_k] in this order
};

/// expert, weight [n_rows, top_k] as a router gives them.
RowsByExpert group_by_expert(std::span<const std::int32_t> expert, std::span<const float> weight,
                             std::int64_t n_experts, std::int64_t top_k) {
  RowsByExpert rows;
  rows.first.assign(static_cast<std::size_t>(n_experts) + 1, 0);
  for (const std::int32_t e : expert) ++rows.first[static_cast<std::size_t>(e) + 1];
  std::partial_sum(rows.first.begin(), rows.first.end(), rows.first.begin());
  rows.row.resize(expert.size());
  rows.weight.resize(expert.size());
  rows.places.resize(expert.size());
  std::vector<std::int64_t> next = rows.first;
  for (std::size_t i = 0; i < expert.size(); ++i) {
    const auto at = static_cast<std::size_t>(next[static_cast<std::size_t>(expert[i])]++);
    rows.row[at] = static_cast<std::int32_t>(i / static_cast<std::size_t>(top_k));
    rows.weight[at] = weight[i];
    rows.places[i] = static_cast<std::int32_t>(at);
  }
  return rows;
}

}  // namespace

float* Transformer::Impl::gate_and_up(const BlockWeights& weights, std::size_t site, std::int64_t n_rows,
                                      const float* x, const SiteObserver& observer, backend::Array<float>* tape) {
  const std::vector<SiteSpec>& sites_here = block(weights);
  const std::int64_t inner = sites_here[site + 1].in_features, n = product(n_rows, inner);
  const bool fused = config.fused_gate_up;
  float* made = grow(context, tape == nullptr || fused ? work_wide : *tape, product(n, 2));
  if (observer) observer(sites_here[site], site, x, n_rows, {});
  linear(weights, site, 0, n_rows, x, false, made);
  if (!fused) {
    linear(weights, site, 1, n_rows, x, false, made + n);
    return made;
  }
  // A row holds gate and up: as a table of 2 n_rows rows, its even ones are the gates and its odd ones the ups.
  std::vector<std::int32_t> order(static_cast<std::size_t>(2 * n_rows));
  for (std::int64_t i = 0; i < 2 * n_rows; ++i)
    order[static_cast<std::size_t>(i)] = static_cast<std::int32_t>(i < n_rows ? 2 * i : 2 * (i - n_rows) + 1);
  const backend::Array<std::int32_t> index(context, std::span<const std::int32_t>(order));
  float* split = grow(context, tape == nullptr ? work_split : *tape, product(n, 2));
  context.linalg().gather_rows_f32(context.exec(), index.data(), 2 * n_rows, inner, made, split);
  return split;
}

void Transformer::Impl::gate(std::int64_t n, const float* gate_up, float* inner) const {
  const kernels::NnKernels& nn = context.nn();
  if (config.activation == Activation::clamped_silu)
    return nn.clamped_swiglu(context.exec(), n, static_cast<float>(config.gate_limit), gate_up, gate_up + n, inner);
  const auto kernel = config.activation == Activation::silu ? nn.swiglu : nn.geglu;
  kernel(context.exec(), n, gate_up, gate_up + n, inner);
}

const float* Transformer::Impl::gated(const BlockWeights& weights, std::size_t site, std::int64_t n_rows,
                                      const float* x, const SiteObserver& observer, backend::Array<float>* tape) {
  const SiteSpec& down = block(weights)[site + 1];
  const std::int64_t n = product(n_rows, down.in_features);
  float* gate_up = gate_and_up(weights, site, n_rows, x, observer, tape);
  float* inner = tape == nullptr ? gate_up : grow(context, work_wide, n);
  gate(n, gate_up, inner);
  if (observer) observer(down, site + 1, inner, n_rows, {});
  return inner;
}

kernels::RouteShape Transformer::Impl::route_shape(std::int64_t n_rows) const {
  const MixtureConfig& mixture = config.mixture;
  return {n_rows,          mixture.n_experts, mixture.top_k,      mixture.renormalise,
          mixture.sigmoid, mixture.n_groups,  mixture.top_groups, static_cast<float>(mixture.factor)};
}

void Transformer::Impl::observe_experts(const BlockWeights& weights, std::int64_t n_rows, const float* normed,
                                        const SiteObserver& observer, std::int64_t first_row) {
  std::vector<std::int32_t> rows(static_cast<std::size_t>(n_rows));
  std::iota(rows.begin(), rows.end(), static_cast<std::int32_t>(first_row));
  const SiteObserver told = [&](const SiteSpec& site, std::size_t index, const float* x, std::int64_t n, auto) {
    observer(site, index, x, n, rows);
  };
  for (std::int64_t e = 0; e < config.mixture.n_experts; ++e)
    gated(weights, places.gate_up + 2 * static_cast<std::size_t>(e), n_rows, normed, told, nullptr);
}

void Transformer::Impl::mixture(const BlockWeights& weights, std::int64_t n_rows, const float* normed, float* hidden,
                                const SiteObserver& observer, std::int64_t first_row, MixtureTape* tape) {
  const MixtureConfig& mixture = config.mixture;
  const std::int64_t dim = config.hidden_size;
  const auto& exec = context.exec();
  const auto times = [&](const backend::Array<float>& weight, std::int64_t n_out) {
    backend::Array<float> out(context, product(n_rows, n_out));
    core::count_product(n_rows, n_out, dim);
    context.linalg().gemm_f32(exec, false, true, n_rows, n_out, dim, 1.0F, normed, dim, weight.data(), dim, 0.0F,
                              out.data(), n_out);
    return out;
  };
  std::vector<std::int32_t> all_places;
  std::span<const std::int32_t> rows_of_part;  // of the part at work
  SiteObserver told;
  if (observer && all_experts) observe_experts(weights, n_rows, normed, observer, first_row);
  if (observer)
    told = [&](const SiteSpec& site, std::size_t index, const float* x, std::int64_t n, auto) {
      if (site.expert < 0 || !all_experts) observer(site, index, x, n, rows_of_part);
    };
  const auto add_weighted = [&](MixturePart part) {
    const float* inner =
        gated(weights, part.gate_up, part.n_rows, part.x, told, tape == nullptr ? nullptr : &tape->gate_up);
    part.out = grow(context, work_out, product(part.n_rows, dim));
    linear(weights, part.gate_up + 1, 0, part.n_rows, inner, false, part.out);
    if (tape != nullptr)
      tape->part(part);
    else
      context.nn().add_weighted_rows(exec, part.n_rows, dim, part.out, part.row, part.weight, hidden);
  };

  backend::Array<float> logits = times(weights.router, mixture.n_experts);
  if (!weights.router_bias.empty())
    context.nn().add_bias(exec, n_rows, mixture.n_experts, weights.router_bias.data(), logits.data(),
                          mixture.n_experts);
  backend::Array<std::int32_t> chosen(context, product(n_rows, mixture.top_k));
  backend::Array<float> chosen_weight(context, chosen.size());
  context.nn().route(exec, route_shape(n_rows), logits.data(),
                     weights.choice_bias.empty() ? nullptr : weights.choice_bias.data(), chosen.data(),
                     chosen_weight.data());
  const RowsByExpert rows =
      group_by_expert(chosen.to_host(), chosen_weight.to_host(), mixture.n_experts, mixture.top_k);
  if (observer)
    for (const std::int32_t row : rows.row) all_places.push_back(row + static_cast<std::int32_t>(first_row));
  const backend::Array<std::int32_t> row(context, std::span<const std::int32_t>(rows.row));
  const backend::Array<float> weight(context, std::span<const float>(rows.weight));
  std::size_t gate_up = places.gate_up;
  for (std::size_t e = 0; e < static_cast<std::size_t>(mixture.n_experts); ++e, gate_up += 2) {
    const std::int64_t first = rows.first[e], n = rows.first[e + 1] - first;
    if (n == 0) continue;
    float* x = grow(context, work_expert, product(n, dim));
    context.linalg().gather_rows_f32(exec, row.data() + first, n, dim, normed, x);
    if (observer)
      rows_of_part = std::span(all_places).subspan(static_cast<std::size_t>(first), static_cast<std::size_t>(n));
    MixturePart part{gate_up, n, x, nullptr, row.data() + first, weight.data() + first, first, nullptr, nullptr};
    if (mixture.weighs_input) {
      part.unweighted = x;
      part.input_weight = part.weight;
      float* weighted = grow(context, work_unweighted, product(n, dim));
      context.memory().zero(exec, product(product(n, dim), sizeof(float)), weighted);
      context.nn().add_weighted_rows(exec, n, dim, x, nullptr, part.input_weight, weighted);
      part.x = weighted;
      part.weight = ones(n);
    }
    add_weighted(part);
  }
  if (mixture.shared_size > 0) {
    backend::Array<float> gate;
    if (mixture.shared_gate) {
      gate = times(weights.shared_gate, 1);
      context.nn().sigmoid(exec, n_rows, gate.data());
    }
    const float* share = mixture.shared_gate ? gate.data() : ones(n_rows);
    rows_of_part = {};
    add_weighted({gate_up, n_rows, normed, nullptr, nullptr, share, 0, nullptr, nullptr});
  }
  if (tape != nullptr) {
    tape->logits = std::move(logits);
    tape->expert = std::move(chosen);
    tape->weight = std::move(chosen_weight);
    tape->places = backend::Array<std::int32_t>(context, std::span<const std::int32_t>(rows.places));
  }
}

void Transformer::Impl::feed_forward_half(const BlockWeights& weights, std::int64_t n_rows, float* hidden,
                                          const SiteObserver& observer, std::int64_t parallel_row,
                                          FeedForwardTape* tape, std::int64_t first_row) {
  const float* normed = config.parallel_block
                            ? work_parallel.data() + parallel_row * config.hidden_size
                            : half_input(n_rows, hidden, weights.feed_forward_norm,
                                         grow(context, work_normed, product(n_rows, config.hidden_size)));
  if (is_mixture(config, weights.layer)) {
    mixture(weights, n_rows, normed, hidden, observer, first_row);
    return;
  }
  const float* inner =
      gated(weights, places.gate_up, n_rows, normed, observer, tape == nullptr ? nullptr : &tape->gate_up);
  add_output(weights, places.gate_up + 1, n_rows, inner, weights.feed_forward_out_norm, hidden,
             tape == nullptr ? nullptr : &tape->out);
}

}  // namespace voronoi::model
