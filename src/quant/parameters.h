// Parameters of quantization: what all methods share, and what each unit of methods has of its own. A parameter is
// declared once; options of the command line, keys of config files, --set, help, range checks and the identity of a run
// all come from the declaration.
#pragma once

#include <any>
#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <typeindex>
#include <vector>

#include "core/json.h"
#include "core/option.h"

namespace voronoi::quant {

/// What is wrong, one a line, in the names of the command line.
using Problems = std::vector<std::string>;

/// The parameters of a run. Beside the common ones it holds a structure for each unit that a method declares its
/// parameters in (UniformParameters, VectorParameters, ...), those of other methods than the chosen one included: they
/// keep what was set, in whichever order the method and its parameters are given. A value.
struct QuantParameters {
  std::string method = "voronoi";
  std::uint64_t seed = 0;
  double damping = 0.01;      ///< share of the mean diagonal added to H; raised tenfold a step when H does not factor
  bool act_order = true;      ///< columns in order of falling Hessian diagonal
  bool guided_metric = true;  ///< the guided Hessian counts, where calibration made one

  /// Parameters of the unit `Unit`; its defaults until somebody changes them.
  template <class Unit>
  Unit& get() {
    std::any& unit = units_.try_emplace(typeid(Unit)).first->second;
    if (!unit.has_value()) unit.emplace<Unit>();
    return *std::any_cast<Unit>(&unit);
  }
  template <class Unit>
  const Unit& get() const {
    static const Unit defaults{};
    const auto unit = units_.find(typeid(Unit));
    return unit == units_.end() ? defaults : *std::any_cast<Unit>(&unit->second);
  }

 private:
  std::map<std::type_index, std::any> units_;
};

/// One parameter of a method or of all. Whoever declares the same name must declare it in the same unit.
struct Parameter {
  std::string name;  ///< as options, config files, --set and run.json spell it
  std::type_index unit;
  bool fixed = false;  ///< what a run keeps: --set does not change it
  /// Help and assignment, for these parameters, which must outlive it; they may be assigned to meanwhile.
  std::function<core::OptionSpec(QuantParameters&)> option;
  /// What an assignment of the present value answers: empty, or "must be ...".
  std::function<std::string(const QuantParameters&)> problem;
  std::function<core::Json(const QuantParameters&)> value;
};

/// A value as a person writes it after an option.
std::string parameter_text(const core::Json& value);

namespace detail {

template <class Unit>
Unit& unit_of(QuantParameters& parameters) {
  if constexpr (std::is_same_v<Unit, QuantParameters>)
    return parameters;
  else
    return parameters.get<Unit>();
}
template <class Unit>
const Unit& unit_of(const QuantParameters& parameters) {
  if constexpr (std::is_same_v<Unit, QuantParameters>)
    return parameters;
  else
    return parameters.get<Unit>();
}

/// make(target): the option that assigns to the target.
template <class Unit, class T, class Make>
Parameter declare(std::string name, T Unit::*member, Make make) {
  Parameter parameter{std::move(name), typeid(Unit), false, {}, {}, {}};
  parameter.option = [make, member](QuantParameters& parameters) {
    core::OptionSpec option = make(unit_of<Unit>(parameters).*member);
    option.assign = [make, member, &parameters](const std::string& text) {
      return make(unit_of<Unit>(parameters).*member).assign(text);
    };
    return option;
  };
  parameter.value = [member](const QuantParameters& parameters) {
    return core::Json(unit_of<Unit>(parameters).*member);
  };
  parameter.problem = [make, member](const QuantParameters& parameters) {
    T scratch{};
    return make(scratch).assign(parameter_text(core::Json(unit_of<Unit>(parameters).*member)));
  };
  return parameter;
}

core::OptionSpec power_of_two_option(std::string name, std::string help, std::int64_t& target, std::int64_t most,
                                     bool or_none);
core::OptionSpec valued_switch_option(std::string name, std::string help, bool& target);
core::OptionSpec natural_option(std::string name, std::string help, std::uint64_t& target);

}  // namespace detail

// Declarations; `member` is in a structure of QuantParameters::get(), or in QuantParameters itself.
template <class Unit, class Integer>
Parameter integer_parameter(const std::string& name, const std::string& help, Integer Unit::*member, Integer least,
                            Integer most) {
  return detail::declare(name, member,
                         [=](Integer& target) { return core::integer_option(name, help, target, least, most); });
}
/// 0 .. 2^64 - 1.
template <class Unit>
Parameter natural_parameter(const std::string& name, const std::string& help, std::uint64_t Unit::*member) {
  return detail::declare(name, member,
                         [=](std::uint64_t& target) { return detail::natural_option(name, help, target); });
}
template <class Unit>
Parameter number_parameter(const std::string& name, const std::string& help, double Unit::*member, double least,
                           double most) {
  return detail::declare(name, member,
                         [=](double& target) { return core::number_option(name, help, target, least, most); });
}
/// A power of two from 2 to `most`, or 0 where or_none.
template <class Unit>
Parameter power_of_two_parameter(const std::string& name, const std::string& help, std::int64_t Unit::*member,
                                 std::int64_t most, bool or_none = false) {
  return detail::declare(name, member, [=](std::int64_t& target) {
    return detail::power_of_two_option(name, help, target, most, or_none);
  });
}
template <class Unit>
Parameter switch_parameter(const std::string& name, const std::string& help, bool Unit::*member) {
  return detail::declare(name, member, [=](bool& target) { return detail::valued_switch_option(name, help, target); });
}
/// One of `choices`.
template <class Unit>
Parameter choice_parameter(const std::string& name, const std::string& help, std::string Unit::*member,
                           const std::vector<std::string>& choices) {
  return detail::declare(name, member,
                         [=](std::string& target) { return core::choice_option(name, help, target, choices); });
}

/// Those that every method has: seed, damping, act-order, guided-metric.
const std::vector<Parameter>& common_parameters();
/// All of the chosen method, the common ones first. Throws ConfigError for an unknown method.
std::vector<const Parameter*> parameters_of(const QuantParameters& parameters);
/// The union over all methods, each name once. InternalError when two methods declare one name in different units.
std::vector<const Parameter*> all_parameters();

/// One option for each of all_parameters(); the help says which methods take it. `parameters` must outlive them.
std::vector<core::OptionSpec> parameter_options(QuantParameters& parameters);
/// --method, with a line on each.
core::OptionSpec method_option(QuantParameters& parameters);
/// Applies "NAME=VALUE" of --set: any parameter but those that are fixed. Returns the problem, or an empty string.
std::string apply_set(QuantParameters& parameters, const std::string& assignment);
/// What of the parameters decides the result, for run.json: the method, and parameters_of() in their order.
core::Json parameters_json(const QuantParameters& parameters);

/// Every problem of the parameters for their method (empty: fine).
Problems check_parameters(const QuantParameters& parameters);
/// As above, for one operator's shape (a codebook larger than its vectors, groups that do not divide the columns, ...).
/// Nothing where check_parameters finds something.
Problems check_shape(const QuantParameters& parameters, std::int64_t out_features, std::int64_t in_features);

}  // namespace voronoi::quant
