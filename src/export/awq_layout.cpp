#include "export/awq_layout.h"

#include <fmt/format.h>

#include <array>
#include <memory>

#include "core/error.h"
#include "core/index.h"
#include "export/grouped_layout.h"

namespace voronoi::exporting {
namespace {

using core::index;
using core::Json;

constexpr int kBits = 4;
constexpr std::int64_t kCodesPerWord = 8;
constexpr std::array<std::int64_t, kCodesPerWord> kOrder{0, 2, 4, 6, 1, 3, 5, 7};

/// values [rows, out] -> words [rows, out / 8].
std::vector<std::uint32_t> interleaved(const std::vector<std::uint8_t>& values) {
  std::vector<std::uint32_t> words(values.size() / kCodesPerWord, 0);
  for (std::int64_t w = 0; w < std::ssize(words); ++w)
    for (std::int64_t i = 0; i < kCodesPerWord; ++i)
      words[index(w)] |= std::uint32_t{values[index(kCodesPerWord * w + kOrder[index(i)])]} << (kBits * i);
  return words;
}

std::vector<std::uint8_t> in_order(const std::vector<std::uint32_t>& words) {
  std::vector<std::uint8_t> values(words.size() * kCodesPerWord);
  for (std::int64_t w = 0; w < std::ssize(words); ++w)
    for (std::int64_t i = 0; i < kCodesPerWord; ++i)
      values[index(kCodesPerWord * w + kOrder[index(i)])] =
          static_cast<std::uint8_t>((words[index(w)] >> (kBits * i)) & 0xFU);
  return values;
}

constexpr GroupedArrays kAwqArrays{
    [](const IntShape& layer) {
      return core::Shape{layer.in_features, core::ceil_div(layer.out_features, kCodesPerWord)};
    },
    false};

class AwqWriter final : public GroupedWriter {
 public:
  explicit AwqWriter(const Layout& layout) : GroupedWriter(layout, kAwqArrays, kCodesPerWord, 1) {}

  Json quantization_config(const std::vector<std::string>& plain) override {
    return {{"quant_method", "awq"}, {"bits", kBits},     {"group_size", group_size() > 0 ? group_size() : -1},
            {"zero_point", true},    {"version", "gemm"}, {"modules_to_not_convert", plain}};
  }

 protected:
  std::vector<std::uint32_t> packed_codes(const IntLayer& layer) const override {
    return interleaved(transposed(layer.codes, layer.out_features, layer.in_features));
  }
  std::vector<std::uint32_t> packed_zeros(const IntLayer& layer) const override {
    return interleaved(transposed(layer.zeros, layer.out_features, layer.n_groups()));
  }
};

class AwqReader final : public GroupedReader {
 public:
  explicit AwqReader(const LayerSource& source)
      : GroupedReader(source, kAwqArrays, kBits, kBits, listed_names(source, "modules_to_not_convert")) {
    if (const std::string version = text_of(source.quantization, "version");
        !version.empty() && version != "gemm" && version != "GEMM")
      throw core::FormatError(source.config_file, "key \"quantization_config.version\": is " +
                                                      core::quote_text(version) + "; only gemm is read");
  }

  std::optional<Stored> open(const model::LinearSpec& linear) override {
    if (linear.out_features % kCodesPerWord != 0)
      throw core::FormatError(source().config_file,
                              fmt::format("key \"quantization_config\": {} has {} rows, no multiple of {}", linear.name,
                                          linear.out_features, kCodesPerWord));
    return GroupedReader::open(linear);
  }

 protected:
  std::vector<std::uint8_t> codes(const std::vector<std::uint32_t>& words, const IntLayer& layer) const override {
    return transposed(in_order(words), layer.in_features, layer.out_features);
  }
  std::vector<std::uint8_t> zeros(const std::vector<std::uint32_t>& words, const IntLayer& layer,
                                  const std::string& /*place*/) const override {
    return transposed(in_order(words), layer.n_groups(), layer.out_features);
  }
};

class AwqLayout final : public IntLayout {
 public:
  std::string_view name() const override { return "awq"; }
  std::string_view title() const override { return "AWQ's layout"; }
  std::string_view packages() const override { return "autoawq"; }
  std::unique_ptr<LayerWriter> writer(Profile /*profile*/) const override { return std::make_unique<AwqWriter>(*this); }
  bool reads(const Json& quantization) const override { return text_of(quantization, "quant_method") == name(); }
  std::unique_ptr<LayerReader> reader(const LayerSource& source) const override {
    return std::make_unique<AwqReader>(source);
  }

 protected:
  std::vector<std::string> problems(const quant::UniformLayout& setting,
                                    std::span<const LayerShape> shapes) const override {
    std::vector<std::string> problems;
    if (setting.bits != kBits)
      problems.push_back(fmt::format("export: {} bits: AWQ's layout has {} alone", setting.bits, kBits));
    if (setting.ordered) problems.emplace_back("export: AWQ's layout has no column order; use --group-grid static");
    for (const LayerShape& shape : shapes)
      if (shape.out_features % kCodesPerWord != 0 ||
          (setting.group_size > 0 && setting.group_size < shape.in_features &&
           shape.in_features % setting.group_size != 0)) {
        problems.push_back(
            fmt::format("export: a layer of {} x {} in groups of {}: AWQ's layout wants rows in multiples of {} and "
                        "whole groups",
                        shape.out_features, shape.in_features, setting.group_size, kCodesPerWord));
        break;
      }
    return problems;
  }
};

}  // namespace

const Layout& awq_layout() {
  static const AwqLayout layout;
  return layout;
}

}  // namespace voronoi::exporting
