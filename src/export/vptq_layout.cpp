#include "export/vptq_layout.h"

#include <fmt/format.h>

#include <map>
#include <memory>
#include <set>
#include <utility>

#include "core/error.h"
#include "core/log.h"
#include "export/layer_format.h"
#include "format/vptq.h"
#include "quant/method.h"

namespace voronoi::exporting {
namespace {

using core::FormatError;
using core::Json;

class VptqWriter final : public LayerWriter {
 public:
  explicit VptqWriter(Profile profile) : profile_(profile) {}

  std::vector<std::string> check(const model::LinearSpec& /*linear*/, const format::Encoding& encoding) const override {
    return check_exportable(encoding, profile_);
  }
  Json facts(const model::LinearSpec& linear, const format::Encoding& encoding) const override {
    return layer_entry(format::vq_view(encoding), linear.has_bias);
  }
  std::vector<std::string> take(const model::LinearSpec& linear, const Json& facts) override {
    entries_.push_back(Json::object_t::value_type(linear.name, facts));
    if (linear.in_features <= kFusedProductColumns) ++n_narrow_;
    return {};
  }
  std::vector<LayerTensor> tensors(const std::string& linear, const format::Encoding& encoding) const override {
    return layer_tensors(linear, format::vq_view(encoding));
  }
  Json quantization_config(const std::vector<std::string>& plain) override {
    if (n_narrow_ > 0)
      core::log_warning(
          "{} layers have at most {} input columns: VPTQ's fused GPU product for one or two tokens does not take them; "
          "its other paths do",
          n_narrow_, kFusedProductColumns);
    return {{"quant_method", "vptq"},
            {"config_for_layers", std::move(entries_)},
            {"shared_layer_config", Json::object()},
            {"modules_to_not_convert", plain}};
  }

 private:
  Profile profile_;
  Json::object_t entries_;  ///< pushed without a look through all others
  std::size_t n_narrow_ = 0;
};

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

std::string last_part(const std::string& name) { return name.substr(name.rfind('.') + 1); }

class VptqReader final : public LayerReader {
 public:
  explicit VptqReader(const LayerSource& source)
      : source_(source),
        entries_(by_name(source.quantization, "config_for_layers", source.config_file)),
        shared_(by_name(source.quantization, "shared_layer_config", source.config_file)),
        excluded_(listed_names(source, "modules_to_not_convert")) {}

  std::optional<Stored> open(const model::LinearSpec& linear) override {
    const auto own = entries_.find(linear.name), common = shared_.find(last_part(linear.name));
    const bool has_own = own != entries_.end();
    if ((!has_own && common == shared_.end()) || excluded_.contains(linear.name) ||
        excluded_.contains(last_part(linear.name)))
      return std::nullopt;
    const std::string where = "quantization_config." +
                              (has_own ? "config_for_layers." + linear.name : "shared_layer_config." + common->first);
    LayerSettings settings =
        parse_layer_entry(has_own ? *own->second : *common->second, linear, source_.config_file, where);
    Stored stored;
    stored.bits = check_layer_tensors(source_.folder, linear.name, settings);
    stored.nominal_bits = format::nominal_bits(settings.extents);
    layers_.emplace(linear.name, std::move(settings));
    return stored;
  }
  format::Encoding read(const std::string& linear) const override {
    return format::to_encoding(read_layer(source_.folder, linear, layers_.at(linear)));
  }
  std::vector<std::string> tensor_names(const std::string& linear) const override {
    return layer_tensor_names(linear, layers_.at(linear));
  }
  Json description(const std::string& linear) const override {
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
  std::string_view list_key() const override { return "quantization_config.config_for_layers"; }

 private:
  const LayerSource source_;
  std::map<std::string, const Json*> entries_, shared_;
  std::set<std::string> excluded_;
  std::map<std::string, LayerSettings, std::less<>> layers_;
};

class VptqLayout final : public Layout {
 public:
  std::string_view name() const override { return "vptq"; }
  std::string_view title() const override { return "VPTQ's public format"; }
  std::string_view packages() const override { return "vptq"; }
  bool holds(const quant::QuantParameters& parameters) const override {
    return quant::find_method(parameters.method).public_layout(parameters).has_value();
  }
  bool holds(const format::Encoding& encoding) const override { return encoding.format == &format::vptq_format(); }
  std::vector<std::string> check(const quant::QuantParameters& parameters, std::span<const LayerShape> shapes,
                                 Profile profile) const override {
    return check_exportable(parameters, shapes, profile);
  }
  std::vector<std::string> check(const format::Encoding& encoding, Profile profile) const override {
    return check_exportable(encoding, profile);
  }
  std::unique_ptr<LayerWriter> writer(Profile profile) const override { return std::make_unique<VptqWriter>(profile); }
  bool reads(const Json& quantization) const override { return text_of(quantization, "quant_method") == "vptq"; }
  std::unique_ptr<LayerReader> reader(const LayerSource& source) const override {
    return std::make_unique<VptqReader>(source);
  }
};

}  // namespace

const Layout& vptq_layout() {
  static const VptqLayout layout;
  return layout;
}

}  // namespace voronoi::exporting
