#include "export/checkpoint.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <set>

#include "core/error.h"
#include "core/file.h"
#include "model/each_linear.h"
#include "model/weight_data.h"

namespace voronoi::exporting {
namespace {

namespace fs = std::filesystem;
using core::FormatError;
using core::Json;

constexpr std::string_view kWeight = ".weight";

/// The object under `key`, or nothing.
const Json* find_object(const Json& json, const char* key, const std::string& file) {
  const auto found = json.find(key);
  if (found == json.end() || found->is_null()) return nullptr;
  if (!found->is_object()) throw FormatError(file, fmt::format("key \"{}\": is not an object", key));
  return &*found;
}

/// Entries by name: a look-up in JSON goes through all of them.
std::map<std::string, const Json*> by_name(const Json& quantization, const char* key, const std::string& file) {
  std::map<std::string, const Json*> entries;
  if (const Json* object = find_object(quantization, key, file))
    for (const auto& [name, entry] : object->items()) entries.emplace(name, &entry);
  return entries;
}

std::set<std::string> excluded_names(const Json& quantization, const std::string& file) {
  std::set<std::string> names;
  const auto found = quantization.find("modules_to_not_convert");
  if (found == quantization.end() || found->is_null()) return names;
  if (!found->is_array()) throw FormatError(file, "key \"quantization_config.modules_to_not_convert\": is not a list");
  for (const Json& name : *found) {
    if (!name.is_string())
      throw FormatError(file, "key \"quantization_config.modules_to_not_convert\": holds what is no name");
    names.insert(name.get<std::string>());
  }
  return names;
}

std::string last_part(const std::string& name) { return name.substr(name.rfind('.') + 1); }

}  // namespace

bool is_checkpoint(const std::string& path) {
  const fs::path file = fs::path(path) / "config.json";
  if (!fs::is_directory(path) || !fs::exists(file)) return false;
  const Json json = core::parse_json(core::read_text_file(file, model::kMaxConfigBytes), file.string());
  const auto quantization = json.is_object() ? json.find("quantization_config") : json.end();
  if (quantization == json.end() || !quantization->is_object()) return false;
  const auto method = quantization->find("quant_method");
  return method != quantization->end() && *method == "vptq";
}

VptqCheckpoint::VptqCheckpoint(const std::string& path)
    : path_(path),
      config_file_((fs::path(path) / "config.json").string()),
      config_text_(core::read_text_file(config_file_, model::kMaxConfigBytes)),
      folder_(path) {
  const Json json = core::parse_json(config_text_, config_file_);
  const Json& quantization = json.at("quantization_config");
  config_ = model::parse_config(json, config_file_);
  model::add_generation_ends(path, config_);
  parse_layers(quantization);
  // Of the quantized linears the tensors were checked; of the rest the float tensors must be there.
  std::set<std::string> read;
  for (const model::TensorSpec& spec : model::expected_tensors(config_)) {
    const bool weight = spec.name.ends_with(kWeight);
    if (weight && layers_.contains(spec.name.substr(0, spec.name.size() - kWeight.size()))) continue;
    const auto shape = folder_.float_shape(spec.name);
    if (!shape) throw FormatError(folder_.name(), "tensor " + spec.name + ": is missing");
    if (*shape != spec.shape)
      throw FormatError(folder_.name(), fmt::format("tensor {}: has shape {}; {} is wanted", spec.name,
                                                    core::to_string(*shape), core::to_string(spec.shape)));
    read.insert(spec.name);
  }
  for (const auto& [linear, settings] : layers_)
    for (const std::string& tensor : layer_tensor_names(linear, settings)) read.insert(tensor);
  folder_.warn_unread(read, config_.model_type);
}

void VptqCheckpoint::parse_layers(const Json& quantization) {
  const auto entries = by_name(quantization, "config_for_layers", config_file_),
             shared = by_name(quantization, "shared_layer_config", config_file_);
  const std::set<std::string> excluded = excluded_names(quantization, config_file_);
  double bits = 0, nominal = 0, weights = 0, quantized_weights = 0;
  // Bounded by what is stored, whatever the config claims: the first absent tensor ends it.
  model::for_each_linear(config_, [&](const model::SiteSpec&, const model::LinearSpec& linear) {
    const auto count = static_cast<double>(linear.out_features) * static_cast<double>(linear.in_features);
    weights += count;
    const auto own = entries.find(linear.name), common = shared.find(last_part(linear.name));
    const bool has_own = own != entries.end();
    if ((!has_own && common == shared.end()) || excluded.contains(linear.name) ||
        excluded.contains(last_part(linear.name))) {
      if (folder_.find(linear.name + std::string(kWeight)) == nullptr)
        throw FormatError(config_file_,
                          fmt::format("key \"quantization_config.config_for_layers\": has no entry for {}, and "
                                      "there is no tensor {}.weight either",
                                      linear.name, linear.name));
      bits += 16 * count;
      return;
    }
    const std::string where = "quantization_config." +
                              (has_own ? "config_for_layers." + linear.name : "shared_layer_config." + common->first);
    LayerSettings settings = parse_layer_entry(has_own ? *own->second : *common->second, linear, config_file_, where);
    bits += static_cast<double>(check_layer_tensors(folder_, linear.name, settings));
    nominal += format::nominal_bits(settings.extents) * count;
    quantized_weights += count;
    names_.push_back(linear.name);
    layers_.emplace(linear.name, std::move(settings));
  });
  if (names_.empty())
    throw FormatError(config_file_, "key \"quantization_config\": no layer of the model is quantized");
  true_bits_ = bits / weights;
  nominal_bits_ = nominal / quantized_weights;
}

format::Encoding VptqCheckpoint::encoding(const std::string& linear) const {
  const auto layer = layers_.find(linear);
  VORONOI_REQUIRE(layer != layers_.end(), linear + " is not quantized");
  return format::to_encoding(read_layer(folder_, linear, layer->second));
}

Json VptqCheckpoint::description(const std::string& linear) const {
  const format::VqExtents& e = layers_.at(linear).extents;
  return {{"name", linear},
          {"shape", {e.out_features, e.in_features}},
          {"dtype", core::dtype_name(e.dtype)},
          {"vector_length", e.vector_length},
          {"centroids", e.centroids},
          {"residual_centroids", e.residual_centroids},
          {"groups", e.groups},
          {"outlier_columns", e.outlier_size}};
}

std::optional<format::Encoding> VptqCheckpoint::stored(const model::TensorSpec& spec) const {
  if (!spec.name.ends_with(kWeight)) return std::nullopt;
  const std::string linear = spec.name.substr(0, spec.name.size() - kWeight.size());
  const auto layer = layers_.find(linear);
  if (layer == layers_.end()) return std::nullopt;
  format::Encoding encoded = format::to_encoding(read_layer(folder_, linear, layer->second));
  const core::Shape shape{encoded.out_features, encoded.in_features};
  if (shape != spec.shape)
    throw FormatError(folder_.name(), fmt::format("{}: has shape {}, the model wants {}", linear,
                                                  core::to_string(shape), core::to_string(spec.shape)));
  return encoded;
}

void VptqCheckpoint::read(const model::TensorSpec& spec, std::span<float> out) const {
  const auto encoded = stored(spec);
  if (!encoded) return folder_.read(spec, out);
  format::decode(*encoded, out);
  if (!model::all_finite(out))
    throw model::bad_values(folder_.name(), spec.name + " (decoded)", spec.shape,
                            [&](std::int64_t i) { return static_cast<double>(out[static_cast<std::size_t>(i)]); });
}

model::PackedTensor VptqCheckpoint::packed(const model::TensorSpec& spec) const {
  auto encoded = stored(spec);
  return encoded ? std::make_shared<const format::Encoding>(std::move(*encoded)) : nullptr;
}

std::string VptqCheckpoint::fingerprint() const {
  core::Sha256 hash;
  hash.update(fmt::format("config.json {}\n", config_text_.size())).update(config_text_);
  folder_.add_to_fingerprint(hash);
  return hash.hex();
}

}  // namespace voronoi::exporting
