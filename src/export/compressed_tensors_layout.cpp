#include "export/compressed_tensors_layout.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <map>
#include <memory>
#include <utility>

#include "core/error.h"
#include "core/packing.h"
#include "export/int_layer.h"

namespace voronoi::exporting {
namespace {

using core::FormatError;
using core::Json;

constexpr const char *kCodes = ".weight_packed", *kScale = ".weight_scale", *kZeros = ".weight_zero_point",
                     *kShape = ".weight_shape", *kGroupOf = ".weight_g_idx";

bool divides_word(std::int64_t bits) { return bits == 1 || bits == 2 || bits == 4 || bits == 8; }

/// What one of "config_groups" says.
struct Scheme {
  std::int64_t bits = 0, group_size = 0;  ///< group_size 0: whole rows
  bool symmetric = false, ordered = false;
  auto operator<=>(const Scheme&) const = default;
};

Scheme scheme_of(const format::Encoding& encoding) {
  const format::UniformView e = format::uniform_view(encoding);
  return {e.bits, e.group_size >= e.in_features ? 0 : e.group_size, false, !e.perm.empty()};
}

struct PackedLayer {
  Scheme scheme;
  IntShape shape;
};

/// In the order in which they are written.
std::vector<IntTensor> packed_tensors(const std::string& linear, const PackedLayer& layer) {
  const IntShape& shape = layer.shape;
  std::vector<IntTensor> tensors{
      {linear + kShape, kInt64, {2}},
      {linear + kCodes, kInt32, {shape.out_features, core::packed_words(shape.in_features, shape.bits)}}};
  if (!layer.scheme.symmetric)
    tensors.push_back(
        {linear + kZeros, kInt32, {core::packed_words(shape.out_features, shape.bits), shape.n_groups()}});
  if (layer.scheme.ordered) tensors.push_back({linear + kGroupOf, kInt32, {shape.in_features}});
  tensors.push_back({linear + kScale, kHalves, {shape.out_features, shape.n_groups()}});
  return tensors;
}

class PackedWriter final : public LayerWriter {
 public:
  explicit PackedWriter(const Layout& layout) : layout_(layout) {}

  std::vector<std::string> check(const model::LinearSpec& /*linear*/, const format::Encoding& encoding) const override {
    return layout_.check(encoding, Profile::safe);
  }
  Json facts(const model::LinearSpec& /*linear*/, const format::Encoding& encoding) const override {
    const Scheme scheme = scheme_of(encoding);
    return {{"bits", scheme.bits},
            {"group_size", scheme.group_size},
            {"symmetric", scheme.symmetric},
            {"ordered", scheme.ordered}};
  }
  std::vector<std::string> take(const model::LinearSpec& linear, const Json& facts) override {
    linears_[{facts.at("bits"), facts.at("group_size"), facts.at("symmetric"), facts.at("ordered")}].push_back(
        linear.name);
    return {};
  }

  std::vector<TensorPlan> plan(const std::string& linear, const format::Encoding& encoding) const override {
    const IntShape shape = int_shape(format::uniform_view(encoding));
    return planned(packed_tensors(linear, {scheme_of(encoding), shape}), shape.dtype);
  }

  std::vector<LayerTensor> tensors(const std::string& linear, const format::Encoding& encoding) const override {
    const format::UniformView e = format::uniform_view(encoding);
    const IntLayer layer = int_layer(e);
    const int bits = layer.bits;
    const std::int64_t zeros = core::packed_words(e.out_features, bits);
    std::vector<std::vector<std::byte>> data{bytes_of(std::vector<std::int64_t>{e.out_features, e.in_features}),
                                             bytes_of(pack_rows(layer.codes, e.out_features, e.in_features, bits))};
    // Packed down the rows: each column of zeros as a row, and back.
    const auto columns =
        pack_rows(transposed(layer.zeros, e.out_features, layer.n_groups()), layer.n_groups(), e.out_features, bits);
    std::vector<std::uint32_t> down(columns.size());
    for (std::int64_t g = 0; g < layer.n_groups(); ++g)
      for (std::int64_t w = 0; w < zeros; ++w)
        down[static_cast<std::size_t>(w * layer.n_groups() + g)] = columns[static_cast<std::size_t>(g * zeros + w)];
    data.push_back(bytes_of(down));
    if (!layer.group_of.empty()) data.push_back(bytes_of(layer.group_of));
    data.push_back(bytes_of(layer.scale));
    return filled(plan(linear, encoding), std::move(data));
  }

  Json quantization_config(const std::vector<std::string>& plain) override {
    Json groups = Json::object();
    for (const auto& [scheme, names] : linears_) {
      Json weights{{"num_bits", scheme.bits},
                   {"type", "int"},
                   {"symmetric", scheme.symmetric},
                   {"strategy", scheme.group_size > 0 ? "group" : "channel"},
                   {"group_size", scheme.group_size > 0 ? Json(scheme.group_size) : Json()},
                   {"dynamic", false},
                   {"actorder", scheme.ordered ? Json("group") : Json()}};
      // One setting for all is the class, so that clients that fuse linears find it; several go by name.
      Json targets = linears_.size() == 1 ? Json::array({"Linear"}) : Json(names);
      groups[fmt::format("group_{}", groups.size())] = {{"targets", std::move(targets)},
                                                        {"weights", std::move(weights)},
                                                        {"input_activations", nullptr},
                                                        {"output_activations", nullptr}};
    }
    return {{"quant_method", "compressed-tensors"},
            {"format", "pack-quantized"},
            {"quantization_status", "compressed"},
            {"config_groups", std::move(groups)},
            {"ignore", plain},
            {"kv_cache_scheme", nullptr},
            {"global_compression_ratio", nullptr}};
  }

 private:
  const Layout& layout_;
  std::map<Scheme, std::vector<std::string>> linears_;
};

class PackedReader final : public LayerReader {
 public:
  explicit PackedReader(const LayerSource& source) : source_(source), ignored_(listed_names(source, "ignore")) {
    const auto groups = source.quantization.find("config_groups");
    if (groups == source.quantization.end() || !groups->is_object())
      throw FormatError(source.config_file, "key \"quantization_config.config_groups\": is no object");
    for (const auto& [name, group] : groups->items()) add_group(name, group);
  }

  std::optional<Stored> open(const model::LinearSpec& linear) override {
    if (ignored_.contains(linear.name)) return std::nullopt;
    auto scheme = by_name_.find(linear.name);
    if (scheme == by_name_.end()) scheme = by_name_.find("Linear");
    if (scheme == by_name_.end()) return std::nullopt;
    const Scheme& stored_as = scheme->second;
    const PackedLayer layer{stored_as,
                            {linear.out_features, linear.in_features, static_cast<int>(stored_as.bits),
                             stored_as.group_size > 0 ? stored_as.group_size : linear.in_features}};
    if (layer.scheme.group_size > 0 && linear.in_features % layer.scheme.group_size != 0)
      throw FormatError(source_.config_file,
                        fmt::format("key \"quantization_config.config_groups\": groups of {} do not divide the {} "
                                    "columns of {}",
                                    layer.scheme.group_size, linear.in_features, linear.name));
    std::int64_t bytes = 0;
    for (const auto& [name, dtypes, shape] : packed_tensors(linear.name, layer))
      bytes += require_stored(source_.folder, name, dtypes, shape);
    const auto& stored = *source_.folder.find(linear.name + kShape);
    std::array<std::int64_t, 2> shape{};
    std::memcpy(shape.data(), stored.tensor->bytes.data(), sizeof shape);
    if (shape[0] != linear.out_features || shape[1] != linear.in_features)
      throw FormatError(stored.file->path(),
                        fmt::format("tensor {}{}: says {} x {}, the model {} x {}", linear.name, kShape, shape[0],
                                    shape[1], linear.out_features, linear.in_features));
    layers_.emplace(linear.name, layer);
    return Stored{8 * bytes, static_cast<double>(layer.scheme.bits)};
  }

  format::Encoding read(const std::string& linear) const override {
    const PackedLayer& described = layers_.at(linear);
    IntLayer layer{described.shape, {}, {}, {}, {}};
    const std::int64_t n_groups = layer.n_groups();
    layer.codes = unpack_rows(read_words(source_.folder, linear + kCodes,
                                         {layer.out_features, core::packed_words(layer.in_features, layer.bits)}),
                              layer.out_features, layer.in_features, layer.bits);
    layer.scale = read_scales(source_.folder, linear + kScale, {layer.out_features, n_groups}, layer.dtype);
    if (described.scheme.symmetric) {
      layer.zeros.assign(static_cast<std::size_t>(layer.out_features * n_groups),
                         static_cast<std::uint8_t>(1 << (layer.bits - 1)));
    } else {
      const std::int64_t n_words = core::packed_words(layer.out_features, layer.bits);
      const auto down = read_words(source_.folder, linear + kZeros, {n_words, n_groups});
      std::vector<std::uint32_t> columns(down.size());
      for (std::int64_t w = 0; w < n_words; ++w)
        for (std::int64_t g = 0; g < n_groups; ++g)
          columns[static_cast<std::size_t>(g * n_words + w)] = down[static_cast<std::size_t>(w * n_groups + g)];
      layer.zeros =
          transposed(unpack_rows(columns, n_groups, layer.out_features, layer.bits), n_groups, layer.out_features);
    }
    if (described.scheme.ordered) {
      const auto groups = read_words(source_.folder, linear + kGroupOf, {layer.in_features});
      layer.group_of.assign(groups.begin(), groups.end());
    }
    source_.folder.require_unchanged();
    return format::to_encoding(
        uniform_encoding(layer, source_.folder.find(linear + kCodes)->file->path() + ": " + linear));
  }

  std::vector<std::string> tensor_names(const std::string& linear) const override {
    std::vector<std::string> names;
    for (const IntTensor& tensor : packed_tensors(linear, layers_.at(linear))) names.push_back(tensor.name);
    return names;
  }
  Json description(const std::string& linear) const override {
    const PackedLayer& layer = layers_.at(linear);
    return {{"name", linear},
            {"shape", {layer.shape.out_features, layer.shape.in_features}},
            {"bits", layer.scheme.bits},
            {"group_size", layer.scheme.group_size},
            {"symmetric", layer.scheme.symmetric},
            {"column_order", layer.scheme.ordered}};
  }
  std::string_view list_key() const override { return "quantization_config.config_groups"; }

 private:
  [[noreturn]] void refuse(const std::string& where, const std::string& why) const {
    throw FormatError(source_.config_file, fmt::format("key \"quantization_config.{}\": {}", where, why));
  }

  void add_group(const std::string& name, const Json& group) {
    const std::string where = "config_groups." + name;
    const auto weights = group.is_object() ? group.find("weights") : group.end();
    if (!group.is_object() || weights == group.end() || !weights->is_object())
      refuse(where + ".weights", "is no object");
    const auto activations = group.find("input_activations");
    if (activations != group.end() && !activations->is_null())
      refuse(where + ".input_activations", "quantized activations are not supported");
    if (const std::string type = text_of(*weights, "type"); type != "int")
      refuse(where + ".weights.type", "is " + core::quote_text(type) + "; only int is read");
    Scheme scheme;
    scheme.bits = number_of(source_, *weights, "num_bits", 1, 8);
    if (!divides_word(scheme.bits)) refuse(where + ".weights.num_bits", "is not 1, 2, 4 or 8");
    const std::string strategy = text_of(*weights, "strategy");
    if (strategy == "group")
      scheme.group_size = number_of(source_, *weights, "group_size", 1, std::int64_t{1} << 30);
    else if (strategy != "channel")
      refuse(where + ".weights.strategy", "is " + core::quote_text(strategy) + "; group and channel are read");
    const auto symmetric = weights->find("symmetric");
    scheme.symmetric = symmetric == weights->end() || !symmetric->is_boolean() || symmetric->get<bool>();
    scheme.ordered = text_of(*weights, "actorder") == "group";
    const auto targets = group.find("targets");
    if (targets == group.end() || !targets->is_array()) refuse(where + ".targets", "is no list");
    for (const Json& target : *targets) {
      const std::string text = target.is_string() ? target.get<std::string>() : "";
      if (text.empty() || text.starts_with("re:"))
        refuse(where + ".targets",
               "holds " + core::quote_text(target.dump()) + "; \"Linear\" and whole names are read");
      by_name_[text] = scheme;
    }
  }

  const LayerSource source_;
  std::set<std::string> ignored_;
  std::map<std::string, Scheme, std::less<>> by_name_;  ///< targets
  std::map<std::string, PackedLayer, std::less<>> layers_;
};

class CompressedTensors final : public IntLayout {
 public:
  std::string_view name() const override { return "compressed-tensors"; }
  std::string_view title() const override { return "compressed-tensors"; }
  std::string_view packages() const override { return "compressed-tensors"; }
  std::unique_ptr<LayerWriter> writer(Profile /*profile*/) const override {
    return std::make_unique<PackedWriter>(*this);
  }
  bool reads(const Json& quantization) const override {
    return text_of(quantization, "quant_method") == name() && text_of(quantization, "format") == "pack-quantized";
  }
  std::unique_ptr<LayerReader> reader(const LayerSource& source) const override {
    return std::make_unique<PackedReader>(source);
  }

 protected:
  std::vector<std::string> problems(const quant::UniformLayout& setting,
                                    std::span<const LayerShape> shapes) const override {
    std::vector<std::string> problems;
    if (!divides_word(setting.bits))
      problems.push_back(fmt::format(
          "export: {} bits: compressed-tensors' versions do not agree on how to pack them; use 2, 4 or 8 bits{}",
          setting.bits, setting.bits == 3 ? ", or --export-format gptq" : ""));
    for (const LayerShape& shape : shapes)
      if (setting.group_size > 0 && setting.group_size < shape.in_features &&
          shape.in_features % setting.group_size != 0) {
        problems.push_back(fmt::format(
            "export: --group-size {} does not divide the {} columns of a layer, which compressed-tensors wants",
            setting.group_size, shape.in_features));
        break;
      }
    return problems;
  }
};

}  // namespace

const Layout& compressed_tensors_layout() {
  static const CompressedTensors layout;
  return layout;
}

}  // namespace voronoi::exporting
