#include "quant/rules.h"

#include <fmt/format.h>
#include <fnmatch.h>

#include <algorithm>
#include <cmath>
#include <sstream>

#include "core/error.h"
#include "quant/method.h"
#include "quant/setting.h"

namespace voronoi::quant {
namespace {

constexpr const char *kQuantize = "quantize", *kBits = "bits";

const Parameter* find_parameter(const std::string& name) {
  const std::vector<const Parameter*> all = all_parameters();
  const auto found =
      std::find_if(all.begin(), all.end(), [&](const Parameter* parameter) { return parameter->name == name; });
  return found == all.end() || (*found)->fixed ? nullptr : *found;
}

std::string known_names() {
  std::string names = fmt::format("{}, {}", kQuantize, kBits);
  for (const Parameter* parameter : all_parameters())
    if (!parameter->fixed && parameter->name != kBits) names += ", " + parameter->name;
  return names;
}

std::string assign(Rule& rule, const std::string& name, const std::string& value) {
  if (name == kQuantize) return core::switch_option(name, "", rule.quantize).assign(value);
  if (name == kBits) {
    double bits = 0;
    const std::string problem = core::number_option(name, "", bits, kLeastBits, kMostBits).assign(value);
    if (problem.empty()) rule.bits = bits;
    return problem;
  }
  const Parameter* parameter = find_parameter(name);
  if (parameter == nullptr) return "is unknown to rules; they know " + known_names();
  QuantParameters scratch;
  const std::string problem = parameter->option(scratch).assign(value);
  if (problem.empty()) rule.values.emplace_back(name, value);
  return problem;
}

/// Whether the pattern is a name, which needs no matching.
bool is_plain(const std::string& pattern) { return pattern.find_first_of("*?[\\") == std::string::npos; }

}  // namespace

std::string parse_rule(const std::string& text, Rule& rule) {
  std::istringstream words(text);
  Rule read;
  if (!(words >> read.pattern) || read.pattern.find('=') != std::string::npos)
    return "must be PATTERN NAME=VALUE ..., with the pattern of the linears' names first, not '" + text + "'";
  std::vector<std::string> names;
  for (std::string word; words >> word;) {
    const std::size_t equals = word.find('=');
    if (equals == std::string::npos) return read.pattern + ": must be followed by NAME=VALUE, not '" + word + "'";
    const std::string name = word.substr(0, equals);
    if (std::find(names.begin(), names.end(), name) != names.end())
      return read.pattern + ": " + name + ": given more than once";
    names.push_back(name);
    if (const std::string problem = assign(read, name, word.substr(equals + 1)); !problem.empty())
      return read.pattern + ": " + name + ": " + problem;
  }
  if (names.empty()) return read.pattern + ": says nothing of its linears; give " + known_names();
  if (!read.quantize && names.size() > 1)
    return read.pattern + ": quantize=false leaves its linears as they are: nothing else can be said of them";
  rule = std::move(read);
  return {};
}

std::string rule_text(const Rule& rule) {
  std::string text = rule.pattern;
  if (rule.bits) text += fmt::format(" {}={}", kBits, *rule.bits);
  for (const auto& [name, value] : rule.values) text += fmt::format(" {}={}", name, value);
  if (!rule.quantize || (!rule.bits && rule.values.empty())) text += fmt::format(" {}={}", kQuantize, rule.quantize);
  return text;
}

void take_bits_as_value(Rule& rule) {
  rule.values.emplace_back(kBits, fmt::format("{:g}", rule.bits.value()));
  rule.bits.reset();
}

std::string rule_name(const Rule& rule) {
  return (rule.where.empty() ? "--rule" : rule.where) + " " + core::quote_for_shell(rule.pattern);
}

bool matches(const Rule& rule, const std::string& linear) {
  return is_plain(rule.pattern) ? rule.pattern == linear : ::fnmatch(rule.pattern.c_str(), linear.c_str(), 0) == 0;
}

const Rule* deciding_rule(const std::vector<Rule>& rules, const std::string& linear) {
  const auto last = std::find_if(rules.rbegin(), rules.rend(), [&](const Rule& rule) { return matches(rule, linear); });
  return last == rules.rend() ? nullptr : &*last;
}

RunParameters::RunParameters(QuantParameters of_run, std::vector<Rule> rules)
    : of_run_(std::move(of_run)), rules_(std::move(rules)) {
  apply_rules();
}

void RunParameters::apply_rules() {
  of_rules_.assign(rules_.size(), of_run_);
  for (std::size_t i = 0; i < rules_.size(); ++i)
    for (const auto& [name, value] : rules_[i].values) {
      const Parameter* parameter = find_parameter(name);
      VORONOI_REQUIRE(parameter != nullptr && parameter->option(of_rules_[i]).assign(value).empty(),
                      "a rule was parsed before");
    }
}

const QuantParameters* RunParameters::of(const std::string& linear) const {
  const Rule* rule = deciding_rule(rules_, linear);
  if (rule == nullptr) return &of_run_;
  return rule->quantize ? &of_rules_[static_cast<std::size_t>(rule - rules_.data())] : nullptr;
}

Problems RunParameters::problems_of_all(const std::function<Problems(const QuantParameters&)>& find) const {
  const Problems of_run = find(of_run_);
  Problems problems = of_run;
  for (std::size_t i = 0; i < rules_.size(); ++i) {
    if (!rules_[i].quantize) continue;
    for (const std::string& problem : find(of_rules_[i]))
      if (std::find(of_run.begin(), of_run.end(), problem) == of_run.end())
        problems.push_back(rule_name(rules_[i]) + ": " + problem);
  }
  return problems;
}

std::string RunParameters::set(const std::string& assignment) {
  std::string problem = apply_set(of_run_, assignment);
  if (problem.empty()) apply_rules();
  return problem;
}

Problems RunParameters::check() const {
  Problems problems = problems_of_all(check_parameters);
  if (std::none_of(rules_.begin(), rules_.end(), [](const Rule& rule) { return rule.bits.has_value(); }) ||
      !check_parameters(of_run_).empty())
    return problems;
  for (const Rule& rule : rules_) {
    if (!rule.bits) continue;
    for (const std::string& problem : bits_problems(find_method(of_run_.method), *rule.bits, [&](const auto& name) {
           return std::any_of(rule.values.begin(), rule.values.end(),
                              [&](const auto& value) { return value.first == name; });
         }))
      problems.push_back(rule_name(rule) + ": " + problem);
  }
  return problems;
}

core::Json RunParameters::json() const {
  core::Json json = parameters_json(of_run_);
  if (rules_.empty()) return json;
  core::Json& rules = json["rules"] = core::Json::array();
  for (const Rule& rule : rules_) rules.push_back(rule_text(rule));
  return json;
}

}  // namespace voronoi::quant
