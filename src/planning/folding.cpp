#include "planning/folding.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

#include "model/each_linear.h"
#include "model/input_scale.h"
#include "planning/window_schedule.h"
#include "quant/method.h"

namespace voronoi::planning {

bool input_scale_folds(const model::ModelConfig& config, std::int64_t layer, const model::SiteSpec& site) {
  if (site.name == "qkv") return !config.norms.input.empty() && !config.parallel_block;
  if (site.name == "q_b" || site.name == "kv_b") return true;
  if (site.name == "o") return config.n_kv_heads == config.n_heads;
  // What is small beside in_proj_qkvz takes the same input; heads of values share their norm's weights.
  if (site.name.starts_with("linear.")) return false;
  if (site.name == "gate_up") return !model::is_mixture(config, layer) && !config.norms.feed_forward.empty();
  // One is added to a clamped up before the product.
  return site.name.ends_with("down") && config.activation != model::Activation::clamped_silu;
}

std::vector<std::string> sites_without_folding(const model::ModelConfig& config) {
  std::vector<std::string> kinds;
  model::for_each_site(config, [&](std::int64_t layer, const model::SiteSpec& site) {
    if (model::input_scale_folds(config, layer, site)) return;
    const std::string kind = SiteTask{layer, site}.kind();
    if (std::find(kinds.begin(), kinds.end(), kind) == kinds.end()) kinds.push_back(kind);
  });
  return kinds;
}

std::string without_folding(const quant::QuantParameters& parameters, const model::ModelConfig& config) {
  const std::string what = quant::find_method(parameters.method).where_no_scale_folds(parameters);
  if (what.empty()) return {};
  const std::vector<std::string> sites = sites_without_folding(config);
  return sites.empty() ? "" : fmt::format("{}: {}", fmt::join(sites, ", "), what);
}

}  // namespace voronoi::planning
