// Rules: parameters of quantization for linears by the pattern of their names, over those of the run.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "core/json.h"
#include "quant/parameters.h"

namespace voronoi::quant {

/// What holds for the linears whose full module path ("model.layers.3.mlp.down_proj") matches a pattern, beside the
/// parameters of the run. As text "PATTERN NAME=VALUE ...", where NAME is a parameter of the methods, `bits` or
/// `quantize`.
struct Rule {
  std::string pattern;         ///< of a shell: * any characters, dots among them; ? one; [0-4] one of these
  bool quantize = true;        ///< false: the linears stay the model's own
  std::optional<double> bits;  ///< until planning::resolve_bits has put the parameters in its place
  std::vector<std::pair<std::string, std::string>> values;  ///< parameters as they are written, in the order given
  std::string where;  ///< for messages, where it was given: "FILE: [[rules]] 2 (line 14)"; empty: "--rule"
};

/// Reads the text of a rule, but `where`. Returns the problem, or an empty string.
std::string parse_rule(const std::string& text, Rule& rule);
/// The text, which parse_rule reads to the same rule.
std::string rule_text(const Rule& rule);
/// Makes `bits` one of its values: for methods that have bits as a parameter.
void take_bits_as_value(Rule& rule);
/// How messages call it: where it was given, and its pattern.
std::string rule_name(const Rule& rule);
bool matches(const Rule& rule, const std::string& linear);
/// Of those that match the linear the last, which counts alone; nullptr: none does.
const Rule* deciding_rule(const std::vector<Rule>& rules, const std::string& linear);

/// The parameters of a run, linear by linear: whoever quantizes, counts or plans a linear asks of(). A value.
class RunParameters {
 public:
  RunParameters() = default;
  RunParameters(QuantParameters of_run, std::vector<Rule> rules);

  const std::string& method() const { return of_run_.method; }
  const std::vector<Rule>& rules() const { return rules_; }
  /// Of a linear that no rule matches.
  const QuantParameters& of_run() const { return of_run_; }
  /// Of a linear; nullptr: it stays unquantized. Lives as long as this object, and is the same for all linears of a
  /// rule.
  const QuantParameters* of(const std::string& linear) const;
  /// Adds what speaks against any of the settings, whose reasons `find` gives; those of rules by their names.
  Problems problems_of_all(const std::function<Problems(const QuantParameters&)>& find) const;

  /// apply_set() for the run's: what a rule says itself stays. Returns the problem, or an empty string.
  std::string set(const std::string& assignment);
  /// Everything that is wrong before the model is looked at: check_parameters(), and `bits` of rules.
  Problems check() const;
  /// parameters_json() of the run's, with the rules where there are any.
  core::Json json() const;

 private:
  void apply_rules();

  QuantParameters of_run_;
  std::vector<Rule> rules_;
  std::vector<QuantParameters> of_rules_;  ///< by rule
};

}  // namespace voronoi::quant
