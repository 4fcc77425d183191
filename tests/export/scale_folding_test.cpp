// Models whose linears have scales of columns compute the same once these are folded into what is before.
#include "export/scale_folding.h"

#include <gmock/gmock.h>

#include <cmath>
#include <random>

#include "core/error.h"
#include "export/checkpoint.h"
#include "export/checkpoints.h"
#include "model/each_linear.h"
#include "model/transformer.h"
#include "support/generated_source.h"
#include "support/random_packed.h"
#include "support/typed_encoding.h"

namespace voronoi::exporting {
namespace {

using test::decoded;
using testing::AllOf;
using testing::HasSubstr;

constexpr auto kHalf = core::DType::f16;

/// Scales from 1/4 to 4 for all linears of a site.
std::vector<std::uint16_t> some_scales(std::int64_t n, std::uint32_t seed) {
  std::mt19937 engine(seed);
  std::vector<std::uint16_t> bits;
  for (std::int64_t i = 0; i < n; ++i)
    bits.push_back(
        core::to_bits16(kHalf, std::exp2(static_cast<float>(static_cast<double>(engine() % 4001) / 1000 - 2))));
  return bits;
}

format::UniformEncoding uniform(const model::LinearSpec& linear, std::vector<std::uint16_t> column_scale,
                                std::uint32_t seed) {
  std::mt19937 engine(seed);
  format::UniformEncoding e;
  e.out_features = linear.out_features;
  e.in_features = linear.in_features;
  e.bits = 8;
  e.group_size = 8;
  e.dtype = kHalf;
  const std::int64_t n_groups = core::ceil_div(e.in_features, e.group_size);
  for (std::int64_t row = 0; row < e.out_features; ++row) {
    for (std::int64_t word = 0; word < core::ceil_div(e.in_features, std::int64_t{4}); ++word) {
      auto codes = static_cast<std::uint32_t>(engine());
      if (const std::int64_t left = e.in_features - 4 * word; left < 4) codes &= (1U << (8 * left)) - 1;
      e.codes.push_back(codes);
    }
    for (std::int64_t word = 0; word < core::ceil_div(n_groups, std::int64_t{4}); ++word) {
      const std::int64_t left = std::min<std::int64_t>(4, n_groups - 4 * word);
      e.zeros.push_back(left < 4 ? 0x80808080U & ((1U << (8 * left)) - 1) : 0x80808080U);
    }
    for (std::int64_t group = 0; group < n_groups; ++group)
      e.scale.push_back(core::to_bits16(kHalf, 0.003F + 0.0001F * static_cast<float>(engine() % 10)));
  }
  e.column_scale = std::move(column_scale);
  return e;
}

std::map<std::string, format::Encoding> encodings_of(const model::ModelConfig& config) {
  std::map<std::string, format::Encoding> encodings;
  std::uint32_t seed = 0;
  model::for_each_site(config, [&](std::int64_t layer, const model::SiteSpec& site) {
    const std::uint32_t of_site = ++seed;
    const bool folds = model::input_scale_folds(config, layer, site);
    for (const model::LinearSpec& linear : site.linears)
      encodings[linear.name] = format::to_encoding(uniform(
          linear,
          folds ? some_scales(site.in_features, of_site)
                : std::vector<std::uint16_t>(static_cast<std::size_t>(site.in_features), core::to_bits16(kHalf, 1)),
          ++seed));
  });
  return encodings;
}

std::vector<double> nll_of(const model::WeightSource& source) {
  backend::Context context(backend::Device::cpu, 1);
  model::Transformer transformer(source, context);
  std::vector<std::int32_t> ids;
  for (std::int32_t i = 0; i < 20; ++i) ids.push_back(i * i * 7 % 37);
  model::HiddenStates hidden = transformer.embed(ids, 1, std::ssize(ids));
  for (std::int64_t layer = 0; layer < transformer.config().n_layers; ++layer)
    transformer.run_block(transformer.load_block(layer), hidden);
  return transformer.next_token_nll(hidden, ids);
}

double largest_difference(const std::vector<double>& a, const std::vector<double>& b) {
  double largest = 0;
  for (std::size_t i = 0; i < a.size(); ++i) largest = std::max(largest, std::abs(a[i] - b[i]));
  return largest;
}

class FoldedModel : public testing::TestWithParam<test::Architecture> {};

TEST_P(FoldedModel, ComputesTheSame) {
  for (const bool own_values : {false, true}) {
    core::Json changes = GetParam().changes;
    if (own_values) changes["num_key_value_heads"] = 4;
    test::GeneratedSource as_run(changes);
    const auto encodings = encodings_of(as_run.config());
    ScaleFolding folding(as_run.config(), {}, [&](const std::string& name) { return encodings.at(name); });
    EXPECT_TRUE(folding.problems().empty());
    ASSERT_GT(folding.n_folded(), 0U);
    test::GeneratedSource as_export(changes), without(changes);
    for (const model::TensorSpec& spec : model::expected_tensors(as_run.config())) {
      const std::string linear = spec.name.substr(0, spec.name.rfind('.'));
      const auto encoding = encodings.find(linear);
      if (encoding == encodings.end() || !spec.name.ends_with(".weight")) {
        folding.fold(spec, as_export.tensors.at(spec.name));
        continue;
      }
      as_run.tensors.at(spec.name) = decoded(encoding->second);
      const format::Encoding folded = folding.folded(linear, encoding->second);
      EXPECT_TRUE(format::uniform_view(folded).column_scale.empty());
      as_export.tensors.at(spec.name) = decoded(folded);
      format::Encoding dropped = encoding->second;
      std::erase_if(dropped.arrays, [](const format::NamedArray& array) { return array.name == "column_scale"; });
      without.tensors.at(spec.name) = decoded(dropped);
    }
    const std::vector<double> expected = nll_of(as_run);
    // What is left is the rounding of v's and up's scales.
    const double of_scales = largest_difference(nll_of(without), expected);
    EXPECT_GT(of_scales, 1e-4);
    EXPECT_LT(largest_difference(nll_of(as_export), expected), of_scales / 20) << own_values;
  }
}

INSTANTIATE_TEST_SUITE_P(All, FoldedModel, testing::ValuesIn(test::architectures()),
                         [](const auto& test) { return std::string(test.param.name); });

TEST(ScaleFolding, NormsAndRowsByHand) {
  const test::GeneratedSource source({{"num_key_value_heads", 4}, {"attention_bias", true}});
  auto encodings = encodings_of(source.config());
  const std::string block = "model.layers.1.";
  ScaleFolding folding(source.config(), {}, [&](const std::string& name) { return encodings.at(name); });
  const auto scale = [&](const std::string& linear, std::size_t j) {
    return core::from_bits16(kHalf, format::uniform_view(encodings.at(block + linear)).column_scale[j]);
  };
  std::vector<float> norm(24, 0.5F), bias(24, 3);
  folding.fold({block + "post_attention_layernorm.weight", {24}}, norm);
  folding.fold({block + "self_attn.v_proj.bias", {24}}, bias);
  for (std::size_t j = 0; j < 24; ++j) {
    EXPECT_EQ(norm[j], 0.5F * scale("mlp.gate_proj", j));
    EXPECT_EQ(bias[j], 3 * scale("self_attn.o_proj", j));
  }
  // Codes and zeros stay; a row's scales are rounded once.
  const format::Encoding folded = folding.folded(block + "mlp.up_proj", encodings.at(block + "mlp.up_proj"));
  const format::UniformView before = format::uniform_view(encodings.at(block + "mlp.up_proj")),
                            after = format::uniform_view(folded);
  EXPECT_TRUE(std::ranges::equal(after.codes, before.codes));
  EXPECT_TRUE(std::ranges::equal(after.zeros, before.zeros));
  for (std::size_t i = 0; i < after.scale.size(); ++i)
    EXPECT_EQ(core::from_bits16(kHalf, after.scale[i]),
              core::round_to(kHalf, core::from_bits16(kHalf, before.scale[i]) * scale("mlp.down_proj", i / 3)));
  // gate has nothing behind it: its grids are what they were.
  const format::Encoding gate = folding.folded(block + "mlp.gate_proj", encodings.at(block + "mlp.gate_proj"));
  EXPECT_TRUE(std::ranges::equal(format::uniform_view(gate).scale,
                                 format::uniform_view(encodings.at(block + "mlp.gate_proj")).scale));
}

TEST(ScaleFolding, NormsOfOnePlusTheirWeightTakeTheScalesInAUnitOfTheirOwn) {
  test::GeneratedSource source({{"model_type", "gemma2"},
                                {"hidden_activation", "gelu_pytorch_tanh"},
                                {"query_pre_attn_scalar", 8},
                                {"sliding_window", 4}});
  auto encodings = encodings_of(source.config());
  const std::string block = "model.layers.0.", q = block + "self_attn.q_proj";
  std::vector<std::uint16_t> scales(24, core::to_bits16(kHalf, 2));
  scales[5] = core::to_bits16(kHalf, 0.15625F);  // 8 times that is 1.25
  for (const char* linear : {"q_proj", "k_proj", "v_proj"}) {
    format::Encoding& encoding = encodings.at(block + "self_attn." + linear);
    encoding = format::to_encoding(uniform({"", encoding.out_features, 24, false}, scales, 5));
  }
  ScaleFolding folding(source.config(), {}, [&](const std::string& name) { return encodings.at(name); });
  std::vector<float> norm(24, 0.25F);
  folding.fold({block + "input_layernorm.weight", {24}}, norm);
  EXPECT_EQ(norm[5], 1.25F * 1.25F - 1);
  EXPECT_EQ(norm[6], 1.25F * 16 - 1);
  const format::Encoding folded = folding.folded(q, encodings.at(q));
  const format::UniformView before = format::uniform_view(encodings.at(q)), after = format::uniform_view(folded);
  for (std::size_t i = 0; i < after.scale.size(); ++i)
    EXPECT_EQ(8 * core::from_bits16(kHalf, after.scale[i]), core::from_bits16(kHalf, before.scale[i]));
}

TEST(ScaleFolding, WhatHasNoPlaceIsNamed) {
  const test::GeneratedSource source(core::Json::object());  // two values for four heads
  auto encodings = encodings_of(source.config());
  const std::string block = "model.layers.1.";
  const auto problems = [&](std::set<std::string> unquantized) {
    ScaleFolding folding(source.config(), std::move(unquantized),
                         [&](const std::string& name) { return encodings.at(name); });
    std::string text;
    for (const auto& [linear, problem] : folding.problems()) text += linear + ": " + problem + "\n";
    return text;
  };
  EXPECT_EQ(problems({}), "");
  const auto rescale = [&](const std::string& linear) {
    const format::Encoding& encoding = encodings.at(block + linear);
    encodings[block + linear] = format::to_encoding(
        uniform({"", encoding.out_features, encoding.in_features, false}, some_scales(encoding.in_features, 77), 5));
  };
  rescale("self_attn.o_proj");
  EXPECT_THAT(problems({}), AllOf(HasSubstr("layers.1.self_attn.o_proj: "), HasSubstr("fold into nothing")));
  rescale("self_attn.k_proj");
  EXPECT_THAT(problems({}), AllOf(HasSubstr("layers.1.self_attn.v_proj: "), HasSubstr("do not share")));
  EXPECT_THAT(problems({block + "mlp.gate_proj"}),
              AllOf(HasSubstr("layers.1.mlp.up_proj: "), HasSubstr("do not share")));
}

TEST(ScaleFolding, ALinearThatStaysTakesTheScalesBehindIt) {
  const test::GeneratedSource source(core::Json{{"num_key_value_heads", 4}});
  auto encodings = encodings_of(source.config());
  const std::string block = "model.layers.0.self_attn.";
  // All three of the site stay, so that nothing is to be folded before them.
  ScaleFolding folding(source.config(), {block + "q_proj", block + "k_proj", block + "v_proj"},
                       [&](const std::string& name) { return encodings.at(name); });
  EXPECT_TRUE(folding.problems().empty());
  std::vector<float> weight(24 * 24, 2), norm(24, 1);
  folding.fold({block + "v_proj.weight", {24, 24}}, weight);
  folding.fold({"model.layers.0.input_layernorm.weight", {24}}, norm);
  const auto scales = format::uniform_view(encodings.at(block + "o_proj")).column_scale;
  for (std::size_t i = 0; i < weight.size(); ++i) EXPECT_EQ(weight[i], 2 * core::from_bits16(kHalf, scales[i / 24]));
  EXPECT_EQ(norm, std::vector<float>(24, 1));
}

TEST(ScaleFolding, NumbersBeyondTheTypeAreRefused) {
  const test::GeneratedSource source(core::Json::object());
  auto encodings = encodings_of(source.config());
  ScaleFolding folding(source.config(), {}, [&](const std::string& name) { return encodings.at(name); });
  std::vector<float> norm(24, 60000);
  EXPECT_THROW(folding.fold({"model.layers.0.input_layernorm.weight", {24}}, norm), core::ConfigError);
  auto up = uniform({"", 30, 24, false}, some_scales(24, 3), 3);
  up.scale.assign(up.scale.size(), 0x7BFF);
  EXPECT_THROW(folding.folded("model.layers.0.mlp.up_proj", format::to_encoding(up)), core::ConfigError);
}

/// Written and read back: the integers of the run, norms and rows with the scales, in each layout.
TEST(ScaleFolding, ACheckpointHasNoScalesOfColumns) {
  core::Json config = test::small_config();
  config.update({{"hidden_size", 64}, {"intermediate_size", 96}, {"num_key_value_heads", 4}});
  config.erase("head_dim");
  test::SmallExport small({{}}, config);
  small.encodings = encodings_of(small.source->config());
  for (const char* layout : {"compressed-tensors", "gptq"}) {
    small.request.layout = find_layout(layout);
    small.request.origin.layout = layout;
    const Checkpoint written(small.write(layout).string());
    ScaleFolding folding(small.source->config(), {}, [&](const std::string& name) { return small.encodings.at(name); });
    for (const auto& [name, encoding] : small.encodings)
      EXPECT_EQ(decoded(written.encoding(name)), decoded(folding.folded(name, encoding))) << layout << " " << name;
    std::vector<float> before(64), after(64);
    const model::TensorSpec norm{"model.layers.1.input_layernorm.weight", {64}};
    small.source->read(norm, before);
    written.read(norm, after);
    const auto scales = format::uniform_view(small.encodings.at("model.layers.1.self_attn.q_proj")).column_scale;
    for (std::size_t j = 0; j < 64; ++j)
      EXPECT_EQ(after[j], core::round_to(kHalf, before[j] * core::from_bits16(kHalf, scales[j])));
  }
  auto& o = small.encodings.at("model.layers.1.mlp.gate_proj");
  o = format::to_encoding(uniform({"", 96, 64, false}, some_scales(64, 1234), 5));
  EXPECT_THAT(test::message_of<core::ConfigError>([&] { small.write("refused"); }), HasSubstr("do not share"));
}

}  // namespace
}  // namespace voronoi::exporting
