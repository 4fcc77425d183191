#include "planning/bits.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <set>

#include "core/error.h"
#include "core/log.h"
#include "model/each_linear.h"
#include "planning/model_sizes.h"
#include "quant/method.h"

namespace voronoi::planning {
namespace {

constexpr const char* kBits = "--bits";

/// The setting of at most these true bits on the layers. Throws ConfigError when none fits.
quant::QuantParameters chosen_setting(const quant::QuantParameters& base, double bits,
                                      const std::vector<quant::LayerCount>& layers, const std::string& what) {
  const quant::Method& method = quant::find_method(base.method);
  if (const auto chosen = method.choose_setting(base, bits, layers)) {
    core::log_info("{} {:g}: {}: {:.3f} true bits a weight (nominal {:.3f})", what, bits, method.setting(*chosen),
                   quant::true_bits(*chosen, layers), method.nominal_bits(*chosen));
    return *chosen;
  }
  const auto least = method.least_true_bits(base, layers);
  throw core::ConfigError(
      fmt::format("{} {:g}: no setting of {} makes {} so small; {}", what, bits, method.name(),
                  what == kBits ? "this model" : "its linears",
                  least ? fmt::format("the least is {:.3f} true bits", *least) : "its layers are too small for any"));
}

/// Whether a rule says something that --bits would choose.
bool chooses(const quant::Rule& rule, const std::vector<std::string>& chosen) {
  return !rule.quantize || rule.bits || std::any_of(rule.values.begin(), rule.values.end(), [&](const auto& value) {
    return std::find(chosen.begin(), chosen.end(), value.first) != chosen.end();
  });
}

/// Shapes of the linears that each rule decides; nullptr: none does. Throws ConfigError for a rule without a linear.
std::map<const quant::Rule*, std::vector<quant::LayerCount>> layers_by_rule(const run::Settings& o,
                                                                            const model::ModelConfig& config) {
  std::map<const quant::Rule*, std::vector<quant::LayerCount>> layers;
  std::set<const quant::Rule*> idle;
  for (const quant::Rule& rule : o.rules) idle.insert(&rule);
  std::string example;
  model::for_each_linear(config, [&](const model::SiteSpec&, const model::LinearSpec& linear) {
    count_layers(layers[quant::deciding_rule(o.rules, linear.name)], {linear.out_features, linear.in_features, 1});
    std::erase_if(idle, [&](const quant::Rule* rule) { return quant::matches(*rule, linear.name); });
    example = linear.name;
  });
  std::vector<std::string> problems;
  for (const quant::Rule& rule : o.rules)
    if (idle.contains(&rule))
      problems.push_back(quant::rule_name(rule) +
                         ": matches no linear of the model; patterns are for whole names like " + example);
  if (std::none_of(layers.begin(), layers.end(),
                   [](const auto& entry) { return entry.first == nullptr || entry.first->quantize; }))
    problems.push_back(quant::rule_name(o.rules.back()) + ": the rules leave no linear of the model to quantize");
  if (!problems.empty()) throw core::ConfigError(problems);
  return layers;
}

/// Puts parameters in the place of a rule's bits. `layers`: that it decides.
void resolve_rule(const quant::QuantParameters& of_run, const std::vector<quant::LayerCount>& layers,
                  quant::Rule& rule) {
  const std::vector<std::string> names = quant::find_method(of_run.method).chosen_by_bits();
  if (names.empty()) {
    quant::take_bits_as_value(rule);
    return;
  }
  if (!layers.empty()) {
    const quant::QuantParameters chosen = chosen_setting(of_run, *rule.bits, layers, quant::rule_name(rule) + ": bits");
    for (auto& value : chosen_values(chosen)) rule.values.push_back(std::move(value));
  }
  rule.bits.reset();
}

}  // namespace

std::vector<std::pair<std::string, std::string>> chosen_values(const quant::QuantParameters& parameters) {
  std::vector<std::string> names = quant::find_method(parameters.method).chosen_by_bits();
  if (names.empty()) names.emplace_back("bits");
  std::vector<std::pair<std::string, std::string>> values;
  for (const quant::Parameter* parameter : quant::parameters_of(parameters))
    if (std::find(names.begin(), names.end(), parameter->name) != names.end())
      values.emplace_back(parameter->name, quant::parameter_text(parameter->value(parameters)));
  return values;
}

void resolve_bits(run::Settings& o, const model::ModelConfig& config) {
  const std::vector<std::string> chosen = quant::find_method(o.parameters.method).chosen_by_bits();
  const bool of_run = o.bits && (o.allocate || !chosen.empty());
  if (!of_run && o.rules.empty()) return;
  const auto by_rule = layers_by_rule(o, config);
  std::vector<quant::LayerCount> layers;
  for (const auto& [rule, decided] : by_rule)
    if (rule == nullptr || !chooses(*rule, chosen))
      for (const quant::LayerCount& layer : decided) count_layers(layers, layer);
  if (of_run && !layers.empty()) o.parameters = chosen_setting(o.parameters, *o.bits, layers, kBits);
  for (quant::Rule& rule : o.rules)
    if (rule.bits) {
      const auto decided = by_rule.find(&rule);
      resolve_rule(o.parameters, decided == by_rule.end() ? std::vector<quant::LayerCount>() : decided->second, rule);
    }
}

}  // namespace voronoi::planning
