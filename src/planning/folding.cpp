#include "planning/folding.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

#include "model/each_linear.h"
#include "model/input_scale.h"
#include "planning/window_schedule.h"
#include "quant/method.h"

namespace voronoi::planning {

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
