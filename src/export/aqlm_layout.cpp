#include "export/aqlm_layout.h"

#include <fmt/format.h>

#include <array>
#include <map>
#include <memory>
#include <utility>

#include "core/error.h"
#include "export/int_layer.h"
#include "export/stored_tensor.h"
#include "format/aqlm.h"
#include "quant/method.h"

namespace voronoi::exporting {
namespace {

using core::FormatError;
using core::Json;
using core::Shape;
using format::AqlmExtents;
using quant::AdditiveLayout;

constexpr const char *kAdditiveCodes = ".codes", *kAdditiveBooks = ".codebooks", *kAdditiveScales = ".scales";
constexpr std::array<std::string_view, 1> kCodes8{"I8"}, kCodes16{"I16"};
constexpr std::array<std::string_view, 2> kAdditiveFloats{"F16", "BF16"};
constexpr std::string_view kUnquantized = "linear_weights_not_to_quantize";

std::span<const std::string_view> code_types(const AqlmExtents& e) {
  return elements_due(e).codes8 > 0 ? std::span<const std::string_view>(kCodes8) : kCodes16;
}
Shape codes_shape(const AqlmExtents& e) { return {e.out_features, e.groups(), e.codebooks}; }
Shape books_shape(const AqlmExtents& e) { return {e.codebooks, e.centroids(), 1, e.in_group}; }
Shape scales_shape(const AqlmExtents& e) { return {e.out_features, 1, 1, 1}; }

class AqlmWriter final : public LayerWriter {
 public:
  std::vector<std::string> check(const model::LinearSpec& /*linear*/, const format::Encoding& encoding) const override {
    if (encoding.format == &format::aqlm_format()) return {};
    return {"export: a layer that is none of additive codes: AQLM's layout holds no others"};
  }
  Json facts(const model::LinearSpec& /*linear*/, const format::Encoding& encoding) const override {
    const format::AqlmView e = format::aqlm_view(encoding);
    return {{"codebooks", e.codebooks}, {"code_bits", e.code_bits}, {"in_group", e.in_group}};
  }
  std::vector<std::string> take(const model::LinearSpec& /*linear*/, const Json& facts) override {
    const AdditiveLayout setting{facts.at("codebooks"), facts.at("code_bits"), facts.at("in_group")};
    if (setting_.codebooks == 0) setting_ = setting;
    if (setting_ == setting) return {};
    return {
        fmt::format("export: linears of {}x{} bits for groups of {} beside others of {}x{} and {}: AQLM's layout "
                    "has one setting for all",
                    setting_.codebooks, setting_.code_bits, setting_.in_group, setting.codebooks, setting.code_bits,
                    setting.in_group)};
  }
  std::vector<LayerTensor> tensors(const std::string& linear, const format::Encoding& encoding) const override {
    const format::AqlmView e = format::aqlm_view(encoding);
    const std::string_view numbers = core::dtype_name(e.dtype);
    std::vector<LayerTensor> tensors;
    tensors.emplace_back(linear + kAdditiveCodes, code_types(e).front(), codes_shape(e),
                         e.codes8.empty() ? std::as_bytes(e.codes16) : std::as_bytes(e.codes8));
    tensors.emplace_back(linear + kAdditiveBooks, numbers, books_shape(e), std::as_bytes(e.codebook));
    tensors.emplace_back(linear + kAdditiveScales, numbers, scales_shape(e), std::as_bytes(e.scale));
    return tensors;
  }
  Json quantization_config(const std::vector<std::string>& plain) override {
    std::vector<std::string> weights;
    for (const std::string& module : plain) weights.push_back(module + ".weight");
    return {{"quant_method", "aqlm"},
            {"in_group_size", setting_.in_group},
            {"out_group_size", 1},
            {"num_codebooks", setting_.codebooks},
            {"nbits_per_codebook", setting_.code_bits},
            {kUnquantized, std::move(weights)}};
  }

 private:
  AdditiveLayout setting_;  ///< of 0 codebooks: of no linear yet
};

class AqlmReader final : public LayerReader {
 public:
  explicit AqlmReader(const LayerSource& source) : source_(source), plain_(listed_names(source, kUnquantized)) {
    const Json& json = source.quantization;
    setting_.codebooks = number_of(source, json, "num_codebooks", 1, 16, 1);
    setting_.code_bits = number_of(source, json, "nbits_per_codebook", 1, 16, 16);
    setting_.in_group = number_of(source, json, "in_group_size", 1, 1024, 8);
    number_of(source, json, "out_group_size", 1, 1, 1);
  }

  std::optional<Stored> open(const model::LinearSpec& linear) override {
    if (plain_.contains(linear.name + ".weight")) return std::nullopt;
    AqlmExtents e;
    e.out_features = linear.out_features;
    e.in_features = linear.in_features;
    e.codebooks = setting_.codebooks;
    e.code_bits = setting_.code_bits;
    e.in_group = setting_.in_group;
    if (const std::string problem = find_extent_problem(e); !problem.empty())
      throw FormatError(source_.config_file,
                        fmt::format("key \"quantization_config\": of {}: {}", linear.name, problem));
    const auto& books = stored_tensor(source_.folder, linear.name + kAdditiveBooks, kAdditiveFloats, books_shape(e));
    e.dtype = *books.tensor->dtype;
    const std::array<std::string_view, 1> numbers{core::dtype_name(e.dtype)};
    const std::int64_t bytes =
        std::ssize(books.tensor->bytes) +
        require_stored(source_.folder, linear.name + kAdditiveCodes, code_types(e), codes_shape(e)) +
        require_stored(source_.folder, linear.name + kAdditiveScales, numbers, scales_shape(e));
    layers_.emplace(linear.name, e);
    return Stored{8 * bytes, format::nominal_bits(e)};
  }

  format::Encoding read(const std::string& linear) const override {
    format::AqlmEncoding e;
    static_cast<AqlmExtents&>(e) = layers_.at(linear);
    const auto& codes = stored_tensor(source_.folder, linear + kAdditiveCodes, code_types(e), codes_shape(e));
    if (elements_due(e).codes8 > 0)
      e.codes8 = elements<std::uint8_t>(codes);
    else
      e.codes16 = elements<std::uint16_t>(codes);
    e.codebook = read_scales(source_.folder, linear + kAdditiveBooks, books_shape(e), e.dtype);
    e.scale = read_scales(source_.folder, linear + kAdditiveScales, scales_shape(e), e.dtype);
    source_.folder.require_unchanged();
    return format::to_encoding(e);
  }
  std::vector<std::string> tensor_names(const std::string& linear) const override {
    return {linear + kAdditiveCodes, linear + kAdditiveBooks, linear + kAdditiveScales};
  }
  Json description(const std::string& linear) const override {
    const AqlmExtents& e = layers_.at(linear);
    return {{"name", linear},
            {"shape", {e.out_features, e.in_features}},
            {"dtype", core::dtype_name(e.dtype)},
            {"codebooks", e.codebooks},
            {"code_bits", e.code_bits},
            {"in_group", e.in_group}};
  }
  std::string_view list_key() const override { return "quantization_config.linear_weights_not_to_quantize"; }

 private:
  const LayerSource source_;
  std::set<std::string> plain_;
  AdditiveLayout setting_;
  std::map<std::string, AqlmExtents, std::less<>> layers_;
};

class AqlmLayout final : public Layout {
 public:
  std::string_view name() const override { return "aqlm"; }
  std::string_view title() const override { return "AQLM's layout"; }
  std::string_view packages() const override { return "aqlm[cpu] accelerate"; }
  bool holds(const quant::QuantParameters& parameters) const override {
    return quant::find_method(parameters.method).additive_layout(parameters).has_value();
  }
  bool holds(const format::Encoding& encoding) const override { return encoding.format == &format::aqlm_format(); }
  std::vector<std::string> check(const quant::QuantParameters& parameters, std::span<const LayerShape> /*shapes*/,
                                 Profile /*profile*/) const override {
    if (holds(parameters)) return {};
    return {fmt::format("export: --method {}: AQLM's layout holds additive codes only", parameters.method)};
  }
  std::vector<std::string> check(const format::Encoding& encoding, Profile /*profile*/) const override {
    return AqlmWriter().check({}, encoding);
  }
  bool one_setting() const override { return true; }
  std::unique_ptr<LayerWriter> writer(Profile /*profile*/) const override { return std::make_unique<AqlmWriter>(); }
  bool reads(const Json& quantization) const override { return text_of(quantization, "quant_method") == name(); }
  std::unique_ptr<LayerReader> reader(const LayerSource& source) const override {
    return std::make_unique<AqlmReader>(source);
  }
};

}  // namespace

const Layout& aqlm_layout() {
  static const AqlmLayout layout;
  return layout;
}

}  // namespace voronoi::exporting
