#include "export/gptq_layout.h"

#include <fmt/format.h>

#include <algorithm>
#include <memory>

#include "core/error.h"
#include "core/index.h"
#include "core/packing.h"
#include "export/grouped_layout.h"

namespace voronoi::exporting {
namespace {

using core::index;
using core::Json;

/// Codes a word, or in three words at 3 bits: the sizes of a layer are multiples.
constexpr std::int64_t kMultiple = 32;
constexpr const char* kHasZeroOfZero = "has_zero_of_zero";

constexpr GroupedArrays kGptqArrays{
    [](const IntShape& layer) {
      return core::Shape{core::packed_words(layer.in_features, layer.bits), layer.out_features};
    },
    true};

class GptqWriter final : public GroupedWriter {
 public:
  explicit GptqWriter(const Layout& layout) : GroupedWriter(layout, kGptqArrays, kMultiple, kMultiple) {}

  Json quantization_config(const std::vector<std::string>& /*plain*/) override {
    return {{"quant_method", "gptq"},
            {"bits", bits()},
            {"group_size", group_size() > 0 ? group_size() : -1},
            {"desc_act", ordered()},
            {"sym", false},
            {"lm_head", false},
            {"checkpoint_format", zeros_as_they_are_ ? "gptq_v2" : "gptq"}};
  }

 protected:
  void add_facts(const format::UniformView& e, Json& facts) const override {
    const std::vector<std::uint8_t> zeros =
        unpack_rows(e.zeros, e.out_features, core::ceil_div(e.in_features, e.group_size), static_cast<int>(e.bits));
    facts[kHasZeroOfZero] = std::ranges::count(zeros, 0) > 0;
  }
  void note(const Json& facts) override {
    // Less one, a zero of 0 would be none of so many bits.
    zeros_as_they_are_ = zeros_as_they_are_ || facts.at(kHasZeroOfZero).get<bool>();
  }
  std::vector<std::uint32_t> packed_codes(const IntLayer& layer) const override {
    const std::int64_t out = layer.out_features, n_words = core::packed_words(layer.in_features, layer.bits);
    const auto rows = pack_rows(layer.codes, out, layer.in_features, layer.bits);
    std::vector<std::uint32_t> words(rows.size());
    for (std::int64_t r = 0; r < out; ++r)
      for (std::int64_t w = 0; w < n_words; ++w) words[index(w * out + r)] = rows[index(r * n_words + w)];
    return words;
  }
  std::vector<std::uint32_t> packed_zeros(const IntLayer& layer) const override {
    std::vector<std::uint8_t> zeros = transposed(layer.zeros, layer.out_features, layer.n_groups());
    if (!zeros_as_they_are_)
      for (std::uint8_t& zero : zeros) --zero;
    return pack_rows(zeros, layer.n_groups(), layer.out_features, layer.bits);
  }

 private:
  bool zeros_as_they_are_ = false;
};

class GptqReader final : public GroupedReader {
 public:
  explicit GptqReader(const LayerSource& source) : GroupedReader(source, kGptqArrays, 2, 8, {}) {
    const std::string format = text_of(source.quantization, "checkpoint_format");
    if (format != "" && format != "gptq" && format != "gptq_v2")
      throw core::FormatError(source.config_file, "key \"quantization_config.checkpoint_format\": is " +
                                                      core::quote_text(format) + "; gptq and gptq_v2 are read");
    added_ = format == "gptq_v2" ? 0 : 1;
  }

 protected:
  std::vector<std::uint8_t> codes(const std::vector<std::uint32_t>& words, const IntLayer& layer) const override {
    const std::int64_t out = layer.out_features, n_words = core::packed_words(layer.in_features, layer.bits);
    std::vector<std::uint32_t> rows(words.size());
    for (std::int64_t w = 0; w < n_words; ++w)
      for (std::int64_t r = 0; r < out; ++r) rows[index(r * n_words + w)] = words[index(w * out + r)];
    return unpack_rows(rows, out, layer.in_features, layer.bits);
  }
  std::vector<std::uint8_t> zeros(const std::vector<std::uint32_t>& words, const IntLayer& layer,
                                  const std::string& place) const override {
    std::vector<std::uint8_t> zeros = unpack_rows(words, layer.n_groups(), layer.out_features, layer.bits);
    for (std::uint8_t& zero : zeros) {
      if (zero + added_ >= 1 << layer.bits)
        throw core::FormatError(place, fmt::format("a zero of {} is beyond {} bits", zero + added_, layer.bits));
      zero = static_cast<std::uint8_t>(zero + added_);
    }
    return transposed(zeros, layer.n_groups(), layer.out_features);
  }

 private:
  int added_ = 1;  ///< to what is stored
};

class GptqLayout final : public IntLayout {
 public:
  std::string_view name() const override { return "gptq"; }
  std::string_view title() const override { return "GPTQ's layout"; }
  std::string_view packages() const override { return "gptqmodel optimum"; }
  std::unique_ptr<LayerWriter> writer(Profile /*profile*/) const override {
    return std::make_unique<GptqWriter>(*this);
  }
  bool reads(const Json& quantization) const override { return text_of(quantization, "quant_method") == name(); }
  std::unique_ptr<LayerReader> reader(const LayerSource& source) const override {
    return std::make_unique<GptqReader>(source);
  }

 protected:
  std::vector<std::string> problems(const quant::UniformLayout& setting,
                                    std::span<const LayerShape> shapes) const override {
    std::vector<std::string> problems;
    if (setting.bits != 2 && setting.bits != 3 && setting.bits != 4 && setting.bits != 8)
      problems.push_back(fmt::format("export: {} bits: GPTQ's layout has 2, 3, 4 or 8", setting.bits));
    for (const LayerShape& shape : shapes)
      if (shape.out_features % kMultiple != 0 || shape.in_features % kMultiple != 0) {
        problems.push_back(fmt::format("export: a layer of {} x {}: GPTQ's layout wants multiples of {}",
                                       shape.out_features, shape.in_features, kMultiple));
        break;
      }
    return problems;
  }
};

}  // namespace

const Layout& gptq_layout() {
  static const GptqLayout layout;
  return layout;
}

}  // namespace voronoi::exporting
