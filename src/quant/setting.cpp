#include "quant/setting.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "quant/method.h"

namespace voronoi::quant {

double true_bits(const QuantParameters& parameters, std::span<const LayerCount> layers) {
  double bits = 0, weights = 0;
  for (const LayerCount& layer : layers) {
    const auto count = static_cast<double>(layer.count);
    bits += count * static_cast<double>(planned_bits(parameters, layer.out_features, layer.in_features).total());
    weights += count * static_cast<double>(layer.out_features) * static_cast<double>(layer.in_features);
  }
  return weights > 0 ? bits / weights : 0;
}

std::optional<QuantParameters> last_within(std::span<const QuantParameters> settings, double wanted,
                                           std::span<const LayerCount> layers) {
  std::optional<QuantParameters> last;
  for (const QuantParameters& parameters : settings)
    if (true_bits(parameters, layers) <= wanted * (1 + kBitsMargin)) last = parameters;
  return last;
}

Problems bits_problems(const Method& method, double bits, const std::function<bool(const std::string&)>& is_given) {
  Problems problems;
  const std::vector<std::string> chosen = method.chosen_by_bits();
  for (const std::string& name : chosen)
    if (is_given(name))
      problems.push_back(fmt::format("--bits {:g} chooses what --{} says too: give one or the other", bits, name));
  if (!chosen.empty()) return problems;
  const auto& own = method.parameters();
  if (std::none_of(own.begin(), own.end(), [](const auto& parameter) { return parameter.name == "bits"; }))
    problems.push_back(fmt::format("--bits: means nothing to --method {}; leave it out", method.name()));
  else if (bits != std::floor(bits))
    problems.push_back(fmt::format("--bits: {} codes have whole bits, not {:g}", method.name(), bits));
  return problems;
}

}  // namespace voronoi::quant
