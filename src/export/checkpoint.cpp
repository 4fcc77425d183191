#include "export/checkpoint.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <set>

#include "core/error.h"
#include "core/file.h"
#include "export/module_names.h"
#include "model/each_linear.h"
#include "model/weight_data.h"

namespace voronoi::exporting {
namespace {

namespace fs = std::filesystem;
using core::FormatError;
using core::Json;

constexpr std::string_view kWeight = ".weight";

/// The layout of a config.json; nullptr: none that is read here.
const Layout* layout_of_config(const Json& json) {
  const auto quantization = json.is_object() ? json.find("quantization_config") : json.end();
  if (quantization == json.end() || !quantization->is_object()) return nullptr;
  for (const Layout* layout : layouts())
    if (layout->reads(*quantization)) return layout;
  return nullptr;
}

}  // namespace

bool is_checkpoint(const std::string& path) {
  const fs::path file = fs::path(path) / "config.json";
  if (!fs::is_directory(path) || !fs::exists(file)) return false;
  return layout_of_config(core::parse_json(core::read_text_file(file, model::kMaxConfigBytes), file.string())) !=
         nullptr;
}

Checkpoint::Checkpoint(const std::string& path)
    : path_(path),
      config_file_((fs::path(path) / "config.json").string()),
      config_text_(core::read_text_file(config_file_, model::kMaxConfigBytes)),
      json_(core::parse_json(config_text_, config_file_)),
      config_(model::parse_config(json_, config_file_)),
      folder_(path),
      layout_(layout_of_config(json_)) {
  if (layout_ == nullptr)
    throw FormatError(config_file_, "key \"quantization_config\": is of no layout that is read here");
  if (!config_.wrapper.empty()) {
    folder_.take_standard_names(config_.norms.input.empty() ? config_.norms.attention_out : config_.norms.input);
    json_["quantization_config"] = own_module_names(config_, json_.at("quantization_config"));
  }
  reader_ = layout_->reader({json_.at("quantization_config"), config_file_, folder_});
  model::add_generation_ends(path, config_);
  open_layers();
  // Of the quantized linears the tensors were checked; of the rest the float tensors must be there.
  std::set<std::string> read;
  for (const model::TensorSpec& spec : model::expected_tensors(config_)) {
    const bool weight = spec.name.ends_with(kWeight);
    if (weight && quantized_.contains(spec.name.substr(0, spec.name.size() - kWeight.size()))) continue;
    const auto shape = folder_.float_shape(spec.name);
    if (!shape) throw FormatError(folder_.name(), "tensor " + spec.name + ": is missing");
    if (*shape != spec.shape)
      throw FormatError(folder_.name(), fmt::format("tensor {}: has shape {}; {} is wanted", spec.name,
                                                    core::to_string(*shape), core::to_string(spec.shape)));
    read.insert(spec.name);
  }
  for (const std::string& linear : names_)
    for (const std::string& tensor : reader_->tensor_names(linear)) read.insert(tensor);
  folder_.warn_unread(read, config_.model_type, [&](std::string_view name) { return model::is_beside(config_, name); });
}

void Checkpoint::open_layers() {
  double bits = 0, nominal = 0, weights = 0, quantized_weights = 0;
  // Bounded by what is stored, whatever the config claims: the first absent tensor ends it.
  model::for_each_linear(config_, [&](const model::SiteSpec&, const model::LinearSpec& linear) {
    const auto count = static_cast<double>(linear.out_features) * static_cast<double>(linear.in_features);
    weights += count;
    const auto stored = reader_->open(linear);
    if (!stored) {
      if (folder_.find(linear.name + std::string(kWeight)) == nullptr)
        throw FormatError(config_file_, fmt::format("key \"{}\": has no entry for {}, and there is no tensor {}.weight "
                                                    "either",
                                                    reader_->list_key(), linear.name, linear.name));
      bits += 16 * count;
      return;
    }
    bits += static_cast<double>(stored->bits);
    nominal += stored->nominal_bits * count;
    quantized_weights += count;
    names_.push_back(linear.name);
    quantized_.insert(linear.name);
  });
  if (names_.empty())
    throw FormatError(config_file_, "key \"quantization_config\": no layer of the model is quantized");
  true_bits_ = bits / weights;
  nominal_bits_ = nominal / quantized_weights;
}

format::Encoding Checkpoint::encoding(const std::string& linear) const {
  VORONOI_REQUIRE(quantized_.contains(linear), linear + " is not quantized");
  return reader_->read(linear);
}

Json Checkpoint::description(const std::string& linear) const { return reader_->description(linear); }

std::optional<std::string> Checkpoint::quantized_linear(const model::TensorSpec& spec) const {
  if (!spec.name.ends_with(kWeight)) return std::nullopt;
  std::string linear = spec.name.substr(0, spec.name.size() - kWeight.size());
  return quantized_.contains(linear) ? std::optional(std::move(linear)) : std::nullopt;
}

std::optional<format::Encoding> Checkpoint::stored(const model::TensorSpec& spec) const {
  const auto linear = quantized_linear(spec);
  if (!linear) return std::nullopt;
  format::Encoding encoded = reader_->read(*linear);
  const core::Shape shape{encoded.out_features, encoded.in_features};
  if (shape != spec.shape)
    throw FormatError(folder_.name(), fmt::format("{}: has shape {}, the model wants {}", *linear,
                                                  core::to_string(shape), core::to_string(spec.shape)));
  return encoded;
}

void Checkpoint::read(const model::TensorSpec& spec, std::span<float> out) const {
  const auto encoded = stored(spec);
  if (!encoded) return folder_.read(spec, out);
  format::decode(*encoded, out);
  if (!model::all_finite(out))
    throw model::bad_values(folder_.name(), spec.name + " (decoded)", spec.shape,
                            [&](std::int64_t i) { return static_cast<double>(out[static_cast<std::size_t>(i)]); });
}

bool Checkpoint::read_rows(const model::TensorSpec& spec, std::int64_t first_row, std::span<float> out) const {
  return !quantized_linear(spec) && folder_.read_rows(spec, first_row, out);
}

model::PackedTensor Checkpoint::packed(const model::TensorSpec& spec) const {
  auto encoded = stored(spec);
  return encoded ? std::make_shared<const format::Encoding>(std::move(*encoded)) : nullptr;
}

std::string Checkpoint::fingerprint() const {
  core::Sha256 hash;
  hash.update(fmt::format("config.json {}\n", config_text_.size())).update(config_text_);
  folder_.add_to_fingerprint(hash);
  return hash.hex();
}

std::string kind_of(const Checkpoint& checkpoint) {
  const std::string name(checkpoint.layout().name());
  return name == "vptq" ? "VPTQ checkpoint" : fmt::format("checkpoint ({})", name);
}

}  // namespace voronoi::exporting
