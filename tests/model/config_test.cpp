#include "model/config.h"

#include <gmock/gmock.h>

#include <cmath>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "core/error.h"
#include "support/data.h"

namespace voronoi::model {
namespace {

using core::Json;
using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;

Json minimal(const std::string& model_type) {
  return {{"model_type", model_type}, {"hidden_size", 48},        {"intermediate_size", 80},
          {"num_hidden_layers", 3},   {"num_attention_heads", 6}, {"vocab_size", 100}};
}

/// minimal() with some keys replaced or added.
Json with(const std::string& model_type, const Json& changes) {
  Json json = minimal(model_type);
  for (const auto& [key, value] : changes.items()) json[key] = value;
  return json;
}

ModelConfig parsed(const std::string& model_type, const Json& changes = Json::object()) {
  return parse_config(with(model_type, changes), "c.json");
}

std::string refusal(const Json& json) {
  try {
    parse_config(json, "c.json");
  } catch (const core::FormatError& error) {
    return error.what();
  }
  return "accepted";
}

TEST(Config, FillsAbsentKeysWithTheDefaultsOfTheClass) {
  const ModelConfig llama = parsed("llama");
  EXPECT_EQ(llama.n_kv_heads, 6);
  EXPECT_EQ(llama.head_dim, 8);
  EXPECT_EQ(llama.max_position, 2048);
  EXPECT_DOUBLE_EQ(llama.norm_eps, 1e-6);
  EXPECT_DOUBLE_EQ(llama.rope.theta, 10000);
  EXPECT_EQ(llama.rope.scaling, RopeScaling::none);
  EXPECT_FALSE(llama.qkv_bias || llama.o_bias || llama.mlp_bias || llama.qk_norm || llama.tied_embeddings);
  EXPECT_THAT(llama.window, ElementsAre(0, 0, 0));
  EXPECT_EQ(llama.bos_id, 1);
  EXPECT_EQ(llama.stored_dtype, core::DType::f16);

  const ModelConfig mistral = parsed("mistral", {{"num_attention_heads", 8}});
  EXPECT_EQ(mistral.n_kv_heads, 8);
  EXPECT_THAT(mistral.window, ElementsAre(4096, 4096, 4096));

  const ModelConfig qwen2 = parsed("qwen2", {{"num_key_value_heads", nullptr}});
  EXPECT_EQ(qwen2.n_kv_heads, 6);
  EXPECT_TRUE(qwen2.qkv_bias);
  EXPECT_FALSE(qwen2.o_bias);
  EXPECT_EQ(qwen2.bos_id, std::nullopt);

  const ModelConfig qwen3 = parsed("qwen3", {{"num_key_value_heads", 2}});
  EXPECT_EQ(qwen3.head_dim, 128);
  EXPECT_TRUE(qwen3.qk_norm);
  EXPECT_FALSE(qwen3.qkv_bias);
  EXPECT_EQ(parsed("qwen3", {{"num_key_value_heads", 2}, {"head_dim", nullptr}}).head_dim, 8);
}

TEST(Config, ReadsBiasesAsEachClassDoes) {
  const Json all{{"attention_bias", true}, {"mlp_bias", true}, {"num_key_value_heads", 2}};
  const ModelConfig llama = parsed("llama", all), mistral = parsed("mistral", all), qwen3 = parsed("qwen3", all);
  EXPECT_TRUE(llama.qkv_bias && llama.o_bias && llama.mlp_bias);
  EXPECT_FALSE(mistral.qkv_bias || mistral.o_bias || mistral.mlp_bias);
  EXPECT_TRUE(qwen3.qkv_bias && qwen3.o_bias);
  EXPECT_FALSE(qwen3.mlp_bias);
}

TEST(Config, ReadsWindowsByKeyNullAndLayer) {
  const auto windows = [&](const std::string& type, Json changes) {
    changes["num_key_value_heads"] = 2;
    return parsed(type, changes).window;
  };
  EXPECT_THAT(windows("mistral", {{"sliding_window", nullptr}}), ElementsAre(0, 0, 0));
  EXPECT_THAT(windows("mistral", {{"sliding_window", 5}}), ElementsAre(5, 5, 5));
  EXPECT_THAT(windows("llama", {{"sliding_window", 5}}), ElementsAre(0, 0, 0));
  EXPECT_THAT(windows("qwen2", {{"sliding_window", 5}, {"max_window_layers", 0}}), ElementsAre(0, 0, 0));
  EXPECT_THAT(windows("qwen2", {{"sliding_window", 5}, {"use_sliding_window", true}, {"max_window_layers", 1}}),
              ElementsAre(0, 5, 5));
  EXPECT_THAT(windows("qwen2", {{"sliding_window", 5}, {"use_sliding_window", true}}), ElementsAre(0, 0, 0));
  EXPECT_THAT(windows("qwen3", {{"use_sliding_window", true},
                                {"layer_types", {"sliding_attention", "full_attention", "sliding_attention"}}}),
              ElementsAre(4096, 0, 4096));
  EXPECT_THAT(refusal(with("qwen2", {{"num_key_value_heads", 2}, {"layer_types", {"full_attention"}}})),
              HasSubstr("\"layer_types\""));
  EXPECT_THAT(refusal(with("qwen2",
                           {{"num_key_value_heads", 2}, {"layer_types", {"full_attention", "odd", "full_attention"}}})),
              HasSubstr("\"odd\""));
  EXPECT_THAT(refusal(with("qwen2", {{"num_key_value_heads", 2},
                                     {"layer_types", {"full_attention", "sliding_attention", "full_attention"}}})),
              HasSubstr("window"));
}

TEST(Config, ReadsEveryRopeScaling) {
  const auto rope = [](const Json& scaling) {
    return parsed("llama", {{"rope_scaling", scaling}, {"rope_theta", 500.0}}).rope;
  };
  EXPECT_EQ(rope(nullptr).scaling, RopeScaling::none);
  EXPECT_EQ(rope({{"rope_type", "default"}}).scaling, RopeScaling::none);
  EXPECT_DOUBLE_EQ(rope(nullptr).theta, 500);
  const RopeConfig linear = rope({{"type", "linear"}, {"factor", 4}});
  EXPECT_EQ(linear.scaling, RopeScaling::linear);
  EXPECT_DOUBLE_EQ(linear.factor, 4);
  const RopeConfig llama3 = rope({{"rope_type", "llama3"},
                                  {"factor", 8.0},
                                  {"low_freq_factor", 1.5},
                                  {"high_freq_factor", 4.5},
                                  {"original_max_position_embeddings", 64}});
  EXPECT_EQ(llama3.scaling, RopeScaling::llama3);
  EXPECT_DOUBLE_EQ(llama3.low_freq_factor, 1.5);
  EXPECT_DOUBLE_EQ(llama3.high_freq_factor, 4.5);
  EXPECT_DOUBLE_EQ(llama3.original_max_position, 64);
  const RopeConfig yarn = rope({{"rope_type", "yarn"}, {"factor", 4}, {"beta_fast", 16}});
  EXPECT_EQ(yarn.scaling, RopeScaling::yarn);
  EXPECT_DOUBLE_EQ(yarn.original_max_position, 2048);
  EXPECT_DOUBLE_EQ(yarn.beta_fast, 16);
  EXPECT_DOUBLE_EQ(yarn.beta_slow, 1);
  EXPECT_EQ(yarn.attention_factor, std::nullopt);
  EXPECT_EQ(rope({{"rope_type", "yarn"}, {"factor", 4}, {"attention_factor", 1.25}}).attention_factor, 1.25);
  const auto scales =
      rope({{"rope_type", "yarn"}, {"factor", 4}, {"mscale", 1}, {"mscale_all_dim", 0.5}}).attention_factor;
  ASSERT_TRUE(scales.has_value());
  EXPECT_NEAR(*scales, (0.1 * std::log(4.0) + 1) / (0.05 * std::log(4.0) + 1), 1e-12);
  const ModelConfig newer =
      parsed("llama", {{"rope_parameters", {{"rope_type", "linear"}, {"factor", 2}, {"rope_theta", 7000}}}});
  EXPECT_EQ(newer.rope.scaling, RopeScaling::linear);
  EXPECT_DOUBLE_EQ(newer.rope.theta, 7000);
}

TEST(Config, RefusesRopeScalingsItDoesNotKnowOrThatMakeNoSense) {
  const auto refused = [](const Json& scaling) { return refusal(with("llama", {{"rope_scaling", scaling}})); };
  EXPECT_THAT(refused({{"rope_type", "dynamic"}, {"factor", 2}}),
              AllOf(HasSubstr("rope_scaling.rope_type"), HasSubstr("dynamic"), HasSubstr("yarn")));
  EXPECT_THAT(refused({{"factor", 2}}), HasSubstr("rope_scaling.rope_type"));
  EXPECT_THAT(refused({{"type", "linear"}}), HasSubstr("rope_scaling.factor"));
  EXPECT_THAT(refused({{"type", "linear"}, {"factor", "2"}}), HasSubstr("rope_scaling.factor"));
  EXPECT_THAT(refused({{"type", "llama3"}, {"factor", 2}}), HasSubstr("rope_scaling.low_freq_factor"));
  EXPECT_THAT(refused({{"type", "llama3"},
                       {"factor", 2},
                       {"low_freq_factor", 4},
                       {"high_freq_factor", 4},
                       {"original_max_position_embeddings", 64}}),
              HasSubstr("high_freq_factor"));
  EXPECT_THAT(refused({{"type", "yarn"}, {"factor", 2}, {"beta_fast", 0.5}}), HasSubstr("beta_fast"));
  EXPECT_THAT(refusal(with("llama", {{"partial_rotary_factor", 0.5}})), HasSubstr("partial_rotary_factor"));
}

TEST(Config, TakesTheStoredTypeFromEitherSpelling) {
  EXPECT_EQ(parsed("llama", {{"dtype", "bfloat16"}}).stored_dtype, core::DType::bf16);
  EXPECT_EQ(parsed("llama", {{"torch_dtype", "bfloat16"}}).stored_dtype, core::DType::bf16);
  EXPECT_EQ(parsed("llama", {{"torch_dtype", "float32"}}).stored_dtype, core::DType::f16);
}

TEST(Config, NamesTheArchitectureItCannotRead) {
  for (const char* type : {"mixtral", "qwen2_moe", "qwen3_moe", "gemma", "gemma2", "phi3"})
    EXPECT_THAT(refusal(minimal(type)),
                AllOf(HasSubstr(std::string("\"") + type + "\""), HasSubstr("known but not supported yet"),
                      HasSubstr("llama, mistral, qwen2, qwen3")));
  EXPECT_THAT(refusal(minimal("bert")),
              AllOf(HasSubstr("\"bert\""), HasSubstr("unknown"), HasSubstr("llama, mistral, qwen2, qwen3")));
  Json json = minimal("llama");
  json.erase("model_type");
  EXPECT_THAT(refusal(json), HasSubstr("model_type"));
  json["architectures"] = {"LlamaForCausalLM"};
  EXPECT_EQ(parse_config(json, "c.json").model_type, "llama");
  json["architectures"] = {"LlamaForSequenceClassification"};
  EXPECT_THAT(refusal(json), HasSubstr("model_type"));
}

TEST(Config, NeverGuessesASize) {
  for (const char* key :
       {"hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "vocab_size"}) {
    Json json = minimal("llama");
    json.erase(key);
    EXPECT_THAT(refusal(json), AllOf(HasSubstr("c.json"), HasSubstr(key)));
    for (const Json& value : {Json(nullptr), Json("4"), Json(1.5), Json(4.0), Json(true), Json(0), Json(-1),
                              Json::array({4}), Json(18446744073709551615ULL), Json(1'000'000'000'000)}) {
      json[key] = value;
      EXPECT_THAT(refusal(json), HasSubstr(std::string("key \"") + key + "\"")) << value;
    }
  }
}

TEST(Config, RefusesValuesOfTheWrongKind) {
  const std::vector<std::pair<std::string, Json>> wrong{{"num_key_value_heads", 4},
                                                        {"head_dim", 7},
                                                        {"head_dim", "8"},
                                                        {"rms_norm_eps", -1e-5},
                                                        {"rms_norm_eps", "1e-5"},
                                                        {"rope_theta", 0},
                                                        {"hidden_act", "gelu"},
                                                        {"hidden_act", 1},
                                                        {"attention_bias", "true"},
                                                        {"mlp_bias", 1},
                                                        {"tie_word_embeddings", 0},
                                                        {"max_position_embeddings", 0},
                                                        {"bos_token_id", 100},
                                                        {"bos_token_id", -1},
                                                        {"torch_dtype", 16},
                                                        {"rope_scaling", "x"},
                                                        {"quantization_config", {{"quant_method", "gptq"}}},
                                                        {"num_attention_heads", 7}};
  for (const auto& [key, value] : wrong)
    EXPECT_THAT(refusal(with("llama", Json::object({{key, value}}))),
                AllOf(HasSubstr("c.json: key \""), HasSubstr(key)))
        << key << " " << value;
  EXPECT_THAT(refusal(Json::array()), HasSubstr("object"));
}

TEST(Config, BoundsHeadsTogether) {
  EXPECT_THAT(refusal(with("llama", {{"num_attention_heads", 100000}, {"head_dim", 1000000}})), HasSubstr("head_dim"));
}

TEST(BlockSites, GroupLinearsByInput) {
  const ModelConfig config = parsed("llama", {{"num_key_value_heads", 2}, {"head_dim", 10}, {"attention_bias", true}});
  const std::vector<SiteSpec> sites = block_sites(config, 7);
  ASSERT_EQ(sites.size(), 4U);
  const auto text = [](const SiteSpec& site) {
    std::string out = site.name + " " + std::to_string(site.in_features);
    for (const LinearSpec& linear : site.linears)
      out += " " + linear.name + " " + std::to_string(linear.out_features) + "x" + std::to_string(linear.in_features) +
             (linear.has_bias ? "+b" : "");
    return out;
  };
  EXPECT_EQ(text(sites[0]),
            "qkv 48 model.layers.7.self_attn.q_proj 60x48+b model.layers.7.self_attn.k_proj 20x48+b "
            "model.layers.7.self_attn.v_proj 20x48+b");
  EXPECT_EQ(text(sites[1]), "o 60 model.layers.7.self_attn.o_proj 48x60+b");
  EXPECT_EQ(text(sites[2]), "gate_up 48 model.layers.7.mlp.gate_proj 80x48 model.layers.7.mlp.up_proj 80x48");
  EXPECT_EQ(text(sites[3]), "down 80 model.layers.7.mlp.down_proj 48x80");
}

TEST(ExpectedTensors, AreThoseOfTheForwardPass) {
  const auto names = [](const ModelConfig& config) {
    std::set<std::string> all;
    for (const TensorSpec& spec : expected_tensors(config)) all.insert(spec.name + " " + core::to_string(spec.shape));
    return all;
  };
  const std::set<std::string> qwen3 =
      names(parsed("qwen3", {{"num_key_value_heads", 2}, {"head_dim", 10}, {"tie_word_embeddings", true}}));
  EXPECT_EQ(qwen3.size(), 3U * 11 + 2);
  EXPECT_TRUE(qwen3.contains("model.layers.2.self_attn.q_norm.weight [10]"));
  EXPECT_TRUE(qwen3.contains("model.layers.0.post_attention_layernorm.weight [48]"));
  EXPECT_FALSE(qwen3.contains("lm_head.weight [100, 48]"));
  const std::set<std::string> llama = names(parsed("llama", {{"mlp_bias", true}}));
  EXPECT_EQ(llama.size(), 3U * 12 + 3);
  EXPECT_TRUE(llama.contains("lm_head.weight [100, 48]"));
  EXPECT_TRUE(llama.contains("model.embed_tokens.weight [100, 48]"));
  EXPECT_TRUE(llama.contains("model.norm.weight [48]"));
  EXPECT_TRUE(llama.contains("model.layers.1.mlp.down_proj.bias [48]"));
}

TEST(Config, ReadsTheRandomModels) {
  VORONOI_NEEDS_DATA("models/tiny-random");
  const auto read = [](const std::string& name) {
    const std::string path = test::data_path("models/tiny-random/" + name + "/config.json");
    return parse_config(core::read_json_file(path), path);
  };
  const ModelConfig llama3 = read("llama3");
  EXPECT_EQ(llama3.rope.scaling, RopeScaling::llama3);
  EXPECT_DOUBLE_EQ(llama3.rope.factor, 8);
  EXPECT_DOUBLE_EQ(llama3.rope.theta, 500000);
  EXPECT_DOUBLE_EQ(llama3.rope.original_max_position, 64);
  EXPECT_EQ(llama3.stored_dtype, core::DType::bf16);
  EXPECT_EQ(llama3.bos_id, 236);
  EXPECT_EQ(read("llama2").stored_dtype, core::DType::f16);
  EXPECT_TRUE(read("llama-tied").tied_embeddings);
  const ModelConfig biased = read("llama-bias-headdim");
  EXPECT_TRUE(biased.qkv_bias && biased.o_bias && biased.mlp_bias);
  EXPECT_EQ(biased.head_dim, 18);
  EXPECT_DOUBLE_EQ(read("mistral").norm_eps, 0.003);
  EXPECT_THAT(read("mistral").window, ElementsAre(0, 0));
  EXPECT_THAT(read("mistral-window").window, ElementsAre(11, 11));
  EXPECT_EQ(read("mistral-window").head_dim, 10);
  EXPECT_THAT(read("qwen2-window").window, ElementsAre(0, 9));
  EXPECT_THAT(read("qwen2").window, ElementsAre(0, 0));
  EXPECT_EQ(read("qwen2").bos_id, std::nullopt);
  const ModelConfig yarn = read("qwen2-yarn");
  EXPECT_EQ(yarn.rope.scaling, RopeScaling::yarn);
  EXPECT_DOUBLE_EQ(yarn.rope.original_max_position, 32);
  EXPECT_TRUE(read("qwen3").qk_norm);
  for (const char* name : {"mixtral", "qwen2-moe", "qwen3-moe", "gemma", "gemma2", "phi3"})
    EXPECT_THROW(read(name), core::FormatError) << name;
}

}  // namespace
}  // namespace voronoi::model
