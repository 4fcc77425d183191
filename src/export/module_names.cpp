#include "export/module_names.h"

#include <utility>

namespace voronoi::exporting {
namespace {

using core::Json;

constexpr std::string_view kModel = "model.", kWithin = "model.language_model.";

std::string own_name(const std::string& name) {
  return name.starts_with(kWithin) ? std::string(kModel) + name.substr(kWithin.size()) : name;
}

/// All keys and texts of a value.
Json with_own_names(const Json& value) {
  if (value.is_string()) return own_name(value.get_ref<const std::string&>());
  if (value.is_array()) {
    Json list = Json::array();
    for (const Json& entry : value) list.push_back(with_own_names(entry));
    return list;
  }
  if (!value.is_object()) return value;
  Json::object_t entries;  // pushed without a look through all others
  for (const auto& [key, entry] : value.items())
    entries.push_back(Json::object_t::value_type(own_name(key), with_own_names(entry)));
  return entries;
}

}  // namespace

std::string module_name(const model::ModelConfig& config, std::string_view name) {
  if (config.wrapper.empty() || !name.starts_with(kModel)) return std::string(name);
  return std::string(kWithin) + std::string(name.substr(kModel.size()));
}

std::string other_module_name(const model::ModelConfig& config, std::string_view stored) {
  const bool is_whole = config.wrapper.empty() || stored.starts_with(kModel);
  return (is_whole ? "" : std::string(kModel)) + std::string(stored);
}

Json own_module_names(const model::ModelConfig& config, const Json& quantization) {
  return config.wrapper.empty() ? quantization : with_own_names(quantization);
}

}  // namespace voronoi::exporting
