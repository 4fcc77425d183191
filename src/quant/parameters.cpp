#include "quant/parameters.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <bit>
#include <charconv>

#include "core/error.h"
#include "quant/method.h"

namespace voronoi::quant {
namespace {

const Method* find_known(const std::string& name) {
  for (const Method* method : methods())
    if (method->name() == name) return method;
  return nullptr;
}

/// "rtn, gptq" of the methods that have the parameter; empty when all do.
std::string takers_of(const Parameter& parameter) {
  std::vector<std::string_view> names;
  for (const Method* method : methods()) {
    const auto& own = method->parameters();
    if (std::any_of(own.begin(), own.end(), [&](const Parameter& other) { return other.name == parameter.name; }))
      names.push_back(method->name());
  }
  return fmt::format("{}", fmt::join(names, ", "));
}

}  // namespace

namespace detail {

core::OptionSpec power_of_two_option(std::string name, std::string help, std::int64_t& target, std::int64_t most,
                                     bool or_none) {
  core::OptionSpec option =
      core::integer_option(std::move(name), std::move(help), target, std::int64_t{or_none ? 0 : 2}, most);
  option.assign = [&target, most, or_none](const std::string& text) -> std::string {
    std::int64_t value = 0;
    const std::string problem = core::integer_option("", "", value, std::int64_t{or_none ? 0 : 2}, most).assign(text);
    const bool none = or_none && value == 0;
    if (!problem.empty() || !(none || (value >= 2 && std::has_single_bit(static_cast<std::uint64_t>(value)))))
      return fmt::format("must be a power of two from 2 to {}{}, not '{}'", most, or_none ? ", or 0 for none" : "",
                         text);
    target = value;
    return {};
  };
  return option;
}

core::OptionSpec valued_switch_option(std::string name, std::string help, bool& target) {
  help += fmt::format(" [{}]", target);
  core::OptionSpec option = core::switch_option(std::move(name), std::move(help), target);
  option.argument = "BOOL";
  return option;
}

core::OptionSpec natural_option(std::string name, std::string help, std::uint64_t& target) {
  help += fmt::format(" [{}]", target);
  return {std::move(name), "N", std::move(help),
          [&target](const std::string& text) -> std::string {
            std::uint64_t value = 0;
            const char* end = text.data() + text.size();
            const auto [position, error] = std::from_chars(text.data(), end, value);
            if (error != std::errc() || position != end)
              return "must be an integer from 0 to 2^64 - 1, not '" + text + "'";
            target = value;
            return {};
          },
          false};
}

}  // namespace detail

std::string parameter_text(const core::Json& value) {
  if (value.is_string()) return value.get<std::string>();
  return value.is_number_float() ? fmt::format("{}", value.get<double>()) : value.dump();
}

const std::vector<Parameter>& common_parameters() {
  static const std::vector<Parameter> parameters = [] {
    std::vector<Parameter> list{
        natural_parameter("seed", "seed of all random choices", &QuantParameters::seed),
        number_parameter("damping", "share of the mean diagonal that is added to the Hessian before it is factored",
                         &QuantParameters::damping, 0, 1),
        switch_parameter("act-order", "columns in order of falling Hessian diagonal", &QuantParameters::act_order),
        switch_parameter("guided-metric",
                         "true: in the metric of guided Hessians, where --hessian guided made them; false: in that of "
                         "the plain ones",
                         &QuantParameters::guided_metric)};
    list.front().fixed = true;
    return list;
  }();
  return parameters;
}

std::vector<const Parameter*> parameters_of(const QuantParameters& parameters) {
  std::vector<const Parameter*> list;
  for (const Parameter& parameter : common_parameters()) list.push_back(&parameter);
  for (const Parameter& parameter : find_method(parameters.method).parameters()) list.push_back(&parameter);
  return list;
}

std::vector<const Parameter*> all_parameters() {
  std::vector<const Parameter*> list;
  const auto add = [&](const Parameter& parameter) {
    const auto same =
        std::find_if(list.begin(), list.end(), [&](const Parameter* known) { return known->name == parameter.name; });
    if (same == list.end()) return list.push_back(&parameter);
    VORONOI_REQUIRE((*same)->unit == parameter.unit, "two methods declare a parameter '" + parameter.name +
                                                         "' in different units; share the unit or take another name");
  };
  for (const Parameter& parameter : common_parameters()) add(parameter);
  for (const Method* method : methods())
    for (const Parameter& parameter : method->parameters()) add(parameter);
  return list;
}

std::vector<core::OptionSpec> parameter_options(QuantParameters& parameters) {
  std::vector<core::OptionSpec> options;
  for (const Parameter* parameter : all_parameters()) {
    options.push_back(parameter->option(parameters));
    if (const std::string takers = takers_of(*parameter); !takers.empty())
      options.back().help = takers + ": " + options.back().help;
  }
  return options;
}

core::OptionSpec method_option(QuantParameters& parameters) {
  std::string help = "quantization method";
  for (const Method* method : methods()) help += fmt::format("; {}: {}", method->name(), method->summary());
  return core::choice_option("method", std::move(help), parameters.method, method_names());
}

std::string apply_set(QuantParameters& parameters, const std::string& assignment) {
  const std::size_t equals = assignment.find('=');
  if (equals == std::string::npos) return "must be NAME=VALUE, not '" + assignment + "'";
  const std::string name = assignment.substr(0, equals);
  std::string known;
  for (const Parameter* parameter : all_parameters()) {
    if (parameter->fixed) continue;
    if (parameter->name == name) {
      const std::string problem = parameter->option(parameters).assign(assignment.substr(equals + 1));
      return problem.empty() ? problem : name + " " + problem;
    }
    known += (known.empty() ? "" : ", ") + parameter->name;
  }
  return "'" + name + "' cannot be set on resume; these can: " + known;
}

core::Json parameters_json(const QuantParameters& parameters) {
  core::Json json{{"method", parameters.method}};
  for (const Parameter* parameter : parameters_of(parameters)) json[parameter->name] = parameter->value(parameters);
  return json;
}

Problems check_parameters(const QuantParameters& parameters) {
  const Method* method = find_known(parameters.method);
  if (method == nullptr)
    return {fmt::format("--method {} is unknown; it must be one of {}", parameters.method,
                        fmt::join(method_names(), ", "))};
  Problems problems;
  for (const Parameter* parameter : parameters_of(parameters))
    if (const std::string problem = parameter->problem(parameters); !problem.empty())
      problems.push_back("--" + parameter->name + ": " + problem);
  method->check(parameters, problems);
  return problems;
}

Problems check_shape(const QuantParameters& parameters, std::int64_t out_features, std::int64_t in_features) {
  if (out_features < 1 || in_features < 1)
    return {fmt::format("a layer [{}, {}] has no weights", out_features, in_features)};
  Problems problems;
  if (!check_parameters(parameters).empty()) return problems;  // said there; what follows divides by them
  find_method(parameters.method).check_shape(parameters, out_features, in_features, problems);
  return problems;
}

}  // namespace voronoi::quant
