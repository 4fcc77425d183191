#include "export/layout.h"

#include <fmt/format.h>

#include <array>
#include <functional>
#include <utility>

#include "core/error.h"
#include "export/aqlm_layout.h"
#include "export/awq_layout.h"
#include "export/compressed_tensors_layout.h"
#include "export/gptq_layout.h"
#include "export/vptq_layout.h"
#include "quant/method.h"

namespace voronoi::exporting {

std::vector<std::string> LayerWriter::add(const model::LinearSpec& linear, const format::Encoding& encoding) {
  std::vector<std::string> reasons = check(linear, encoding);
  return reasons.empty() ? take(linear, facts(linear, encoding)) : reasons;
}

std::vector<TensorPlan> LayerWriter::plan(const std::string& linear, const format::Encoding& encoding) const {
  std::vector<TensorPlan> plan;
  for (const LayerTensor& tensor : tensors(linear, encoding))
    plan.push_back({tensor.name, std::string(tensor.dtype), tensor.shape, std::ssize(tensor.bytes)});
  return plan;
}

std::span<const Layout* const> layouts() {
  static const std::array<const Layout*, 5> all{&vptq_layout(), &compressed_tensors_layout(), &gptq_layout(),
                                                &awq_layout(), &aqlm_layout()};
  return all;
}

const Layout* find_layout(std::string_view name) {
  for (const Layout* layout : layouts())
    if (layout->name() == name) return layout;
  return nullptr;
}

std::vector<std::string> layout_choices() {
  std::vector<std::string> names{"auto"};
  for (const Layout* layout : layouts()) names.emplace_back(layout->name());
  return names;
}

namespace {

/// What a layout says of layers: whether it is for their kind, and whether it holds these.
struct Verdict {
  std::function<bool(const Layout&)> is_of_kind, holds;
};

/// The first that holds them; else the first that is for their kind at all, which says why not these.
const Layout* chosen(const Target& target, const Verdict& verdict) {
  if (target.layout != "auto") return find_layout(target.layout);
  const Layout* of_kind = nullptr;
  for (const Layout* layout : layouts()) {
    if (!verdict.is_of_kind(*layout)) continue;
    if (verdict.holds(*layout)) return layout;
    if (of_kind == nullptr) of_kind = layout;
  }
  return of_kind;
}

std::string no_layout(const std::string& what) {
  return fmt::format("export: {}: no checkpoint layout holds such layers; leave export out of --stages", what);
}

}  // namespace

const Layout* layout_of(const Target& target, const quant::QuantParameters& parameters) {
  return chosen(target, {[&](const Layout& layout) { return layout.holds(parameters); },
                         [&](const Layout& layout) { return layout.check(parameters, {}, target.profile).empty(); }});
}

const Layout* layout_of(const Target& target, const format::Encoding& encoding) {
  return chosen(target, {[&](const Layout& layout) { return layout.holds(encoding); },
                         [&](const Layout& layout) { return layout.check(encoding, target.profile).empty(); }});
}

std::vector<std::string> check_exportable(const quant::QuantParameters& parameters, std::span<const LayerShape> shapes,
                                          const Target& target) {
  const Layout* layout = layout_of(target, parameters);
  if (layout == nullptr) return {no_layout("--method " + parameters.method)};
  return layout->check(parameters, shapes, target.profile);
}

std::vector<std::string> check_exportable(const format::Encoding& encoding, const Target& target) {
  const Layout* layout = layout_of(target, encoding);
  if (layout == nullptr) return {no_layout("a layer of its own format")};
  return layout->check(encoding, target.profile);
}

std::vector<std::string> check_together(const quant::QuantParameters& parameters, const quant::QuantParameters& other,
                                        bool allocated, const Target& target) {
  const Layout* layout = layout_of(target, parameters);
  if (layout == nullptr || !layout->one_setting()) return {};
  const auto setting = [](const quant::QuantParameters& own) {
    return quant::find_method(own.method).additive_layout(own);
  };
  if (!allocated && setting(parameters) == setting(other)) return {};
  return {fmt::format("export: {} has one setting for all linears; leave {} out, or export out of --stages",
                      layout->title(), allocated ? "--allocate" : "rules with another one")};
}

std::string text_of(const core::Json& quantization, std::string_view key) {
  const auto found = quantization.find(key);
  return found != quantization.end() && found->is_string() ? found->get<std::string>() : "";
}

std::set<std::string> listed_names(const LayerSource& source, std::string_view key) {
  std::set<std::string> names;
  const auto found = source.quantization.find(key);
  if (found == source.quantization.end() || found->is_null()) return names;
  if (!found->is_array())
    throw core::FormatError(source.config_file, fmt::format("key \"quantization_config.{}\": is not a list", key));
  for (const core::Json& name : *found) {
    if (!name.is_string())
      throw core::FormatError(source.config_file,
                              fmt::format("key \"quantization_config.{}\": holds what is no name", key));
    names.insert(name.get<std::string>());
  }
  return names;
}

std::int64_t number_of(const LayerSource& source, const core::Json& json, std::string_view key, std::int64_t low,
                       std::int64_t high, std::optional<std::int64_t> otherwise) {
  const auto found = json.find(key);
  if ((found == json.end() || found->is_null()) && otherwise) return *otherwise;
  const bool whole = found != json.end() && found->is_number_integer() &&
                     (!found->is_number_unsigned() || std::in_range<std::int64_t>(found->get<std::uint64_t>()));
  const std::int64_t number = whole ? found->get<std::int64_t>() : low - 1;
  if (number < low || number > high)
    throw core::FormatError(
        source.config_file,
        fmt::format("key \"quantization_config.{}\": {}; an integer from {} to {} is wanted", key,
                    found == json.end() ? "is missing" : "is " + core::quote_text(found->dump()), low, high));
  return number;
}

}  // namespace voronoi::exporting
