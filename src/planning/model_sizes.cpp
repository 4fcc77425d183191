#include "planning/model_sizes.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <filesystem>
#include <set>
#include <tuple>
#include <utility>

#include "core/error.h"
#include "core/json.h"
#include "model/each_linear.h"
#include "model/weights.h"
#include "planning/known_models.h"

namespace voronoi::planning {

model::ModelConfig read_model_config(const std::string& model) {
  const std::filesystem::path path(model);
  if (std::filesystem::is_directory(path)) {
    const std::string file = (path / "config.json").string();
    return model::parse_config(core::read_json_file(file), file);
  }
  if (std::filesystem::exists(path)) {
    if (path.extension() == ".json") return model::parse_config(core::read_json_file(model), model);
    return model::open_model(model)->config();
  }
  for (const KnownModel& known : known_models())
    if (known.name == model) return model::parse_config(core::parse_json(known.json, model), model);
  throw core::ConfigError(fmt::format("--model: there is no file or directory '{}', and it is no known name; known: {}",
                                      model, fmt::join(known_model_names(), ", ")));
}

std::vector<std::string> known_model_names() {
  std::vector<std::string> names;
  for (const KnownModel& known : known_models()) names.emplace_back(known.name);
  std::sort(names.begin(), names.end());
  return names;
}

void count_layers(std::vector<quant::LayerCount>& counts, const quant::LayerCount& more) {
  const auto same = std::find_if(counts.begin(), counts.end(), [&](const quant::LayerCount& other) {
    return other.out_features == more.out_features && other.in_features == more.in_features;
  });
  if (same == counts.end())
    counts.push_back(more);
  else
    same->count += more.count;
}

std::vector<quant::LayerCount> layer_counts(const model::ModelConfig& config) {
  std::vector<quant::LayerCount> counts;
  model::for_each_linear(config, [&](const model::SiteSpec&, const model::LinearSpec& linear) {
    count_layers(counts, {linear.out_features, linear.in_features, 1});
  });
  return counts;
}

std::vector<std::string> shape_problems(const quant::RunParameters& parameters, const model::ModelConfig& config) {
  std::vector<std::string> problems;
  std::set<std::tuple<const quant::QuantParameters*, std::int64_t, std::int64_t>> seen;
  model::for_each_linear(config, [&](const model::SiteSpec&, const model::LinearSpec& linear) {
    const quant::QuantParameters* own = parameters.of(linear.name);
    if (own == nullptr || !seen.insert({own, linear.out_features, linear.in_features}).second) return;
    const quant::Rule* rule = quant::deciding_rule(parameters.rules(), linear.name);
    for (const std::string& problem : quant::check_shape(*own, linear.out_features, linear.in_features))
      problems.push_back((rule == nullptr ? "" : quant::rule_name(*rule) + ": ") + linear.name + ": " + problem);
  });
  return problems;
}

}  // namespace voronoi::planning
