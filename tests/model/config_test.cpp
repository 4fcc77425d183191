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
const SitePlaces usual_places = site_places(ModelConfig{});

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
  EXPECT_THAT(refused({{"rope_type", "ntk"}, {"factor", 2}}),
              AllOf(HasSubstr("rope_scaling.rope_type"), HasSubstr("ntk"), HasSubstr("yarn")));
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

const Json kMixtral{{"num_local_experts", 8}, {"num_experts_per_tok", 2}, {"num_key_value_heads", 2}};
const Json kQwenMixture{{"num_experts", 8},
                        {"num_experts_per_tok", 2},
                        {"num_key_value_heads", 2},
                        {"moe_intermediate_size", 12},
                        {"shared_expert_intermediate_size", 20}};

Json changed(Json json, const Json& changes) {
  json.update(changes);
  return json;
}

TEST(Config, FillsAbsentKeysOfMixturesWithTheDefaultsOfTheClass) {
  const ModelConfig mixtral = parsed("mixtral", kMixtral);
  EXPECT_DOUBLE_EQ(mixtral.rope.theta, 1e6);
  EXPECT_DOUBLE_EQ(mixtral.norm_eps, 1e-5);
  EXPECT_THAT(mixtral.window, ElementsAre(0, 0, 0));
  EXPECT_EQ(mixtral.mixture.expert_size, 80);
  const ModelConfig qwen2 = parsed("qwen2_moe", kQwenMixture);
  EXPECT_TRUE(qwen2.qkv_bias);
  EXPECT_FALSE(parsed("qwen2_moe", changed(kQwenMixture, {{"qkv_bias", false}})).qkv_bias);
  EXPECT_EQ(qwen2.mixture.shared_size, 20);
  EXPECT_FALSE(qwen2.mixture.renormalise);
  const ModelConfig qwen3 = parsed("qwen3_moe", kQwenMixture);
  EXPECT_EQ(qwen3.mixture.shared_size, 0);
  EXPECT_EQ(qwen3.head_dim, 8);
  EXPECT_FALSE(qwen3.qkv_bias);
}

TEST(Config, ReadsWhichLayersAreMixtures) {
  const auto layers = [](const Json& changes) {
    return parsed("qwen3_moe", changed(kQwenMixture, changes)).mixture.layers;
  };
  EXPECT_THAT(layers(Json::object()), ElementsAre(true, true, true));
  EXPECT_THAT(layers({{"decoder_sparse_step", 2}}), ElementsAre(false, true, false));
  EXPECT_THAT(layers({{"mlp_only_layers", {0, 2, 99}}}), ElementsAre(false, true, false));
  const auto refused = [](const Json& changes) { return refusal(with("qwen3_moe", changed(kQwenMixture, changes))); };
  EXPECT_THAT(refused({{"mlp_only_layers", {-1}}}), HasSubstr("mlp_only_layers"));
  EXPECT_THAT(refused({{"mlp_only_layers", 1}}), HasSubstr("mlp_only_layers"));
  EXPECT_THAT(refused({{"decoder_sparse_step", 0}}), HasSubstr("decoder_sparse_step"));
  EXPECT_THAT(refused({{"use_sliding_window", true}}), HasSubstr("use_sliding_window"));
}

TEST(Config, RefusesMixturesOfImpossibleSizes) {
  const auto refused = [](const Json& changes) { return refusal(with("mixtral", changed(kMixtral, changes))); };
  EXPECT_THAT(refused({{"num_local_experts", 0}}), HasSubstr("num_local_experts"));
  EXPECT_THAT(refused({{"num_local_experts", 1'000'000'000}}), HasSubstr("num_local_experts"));
  EXPECT_THAT(refused({{"num_local_experts", 60000}, {"num_hidden_layers", 60000}}), HasSubstr("num_local_experts"));
  EXPECT_THAT(refused({{"num_experts_per_tok", 9}}), AllOf(HasSubstr("num_experts_per_tok"), HasSubstr("1 to 8")));
  EXPECT_THAT(refused({{"num_experts_per_tok", 0}}), HasSubstr("num_experts_per_tok"));
  for (const auto& [key, value] : kQwenMixture.items()) {
    if (key == "num_key_value_heads") continue;
    Json json = with("qwen2_moe", kQwenMixture);
    json.erase(key);
    EXPECT_THAT(refusal(json), AllOf(HasSubstr(key), HasSubstr("missing")));
  }
}

TEST(Config, ReadsGemmaAsItsClassesDo) {
  const Json heads{{"num_key_value_heads", 2}, {"head_dim", 8}};
  const ModelConfig gemma = parsed("gemma", heads), gemma2 = parsed("gemma2", heads);
  EXPECT_TRUE(gemma.tied_embeddings && gemma.norm_plus_one);
  EXPECT_DOUBLE_EQ(gemma.attention_scale, 1 / std::sqrt(8.0));
  EXPECT_DOUBLE_EQ(gemma.attention_softcap, 0);
  EXPECT_EQ(gemma.bos_id, 2);
  EXPECT_EQ(parsed("gemma", {{"num_key_value_heads", 2}}).head_dim, 256);
  EXPECT_DOUBLE_EQ(gemma2.attention_scale, 1.0 / 16);
  EXPECT_DOUBLE_EQ(gemma2.attention_softcap, 50);
  EXPECT_DOUBLE_EQ(gemma2.logit_softcap, 30);
  EXPECT_THAT(gemma2.window, ElementsAre(4096, 0, 4096));
  const ModelConfig uncapped =
      parsed("gemma2", changed(heads, {{"attn_logit_softcapping", nullptr}, {"final_logit_softcapping", nullptr}}));
  EXPECT_DOUBLE_EQ(uncapped.attention_softcap, 0);
  EXPECT_DOUBLE_EQ(uncapped.logit_softcap, 0);
  EXPECT_FALSE(parsed("gemma", changed(heads, {{"tie_word_embeddings", false}})).tied_embeddings);
  const auto refused = [&](const Json& changes) { return refusal(with("gemma2", changed(heads, changes))); };
  EXPECT_EQ(refused({{"hidden_act", "gelu"}, {"hidden_activation", "gelu_pytorch_tanh"}}), "accepted");
  EXPECT_THAT(refused({{"hidden_activation", "gelu"}}), HasSubstr("\"hidden_activation\""));
  EXPECT_THAT(refused({{"hidden_act", "silu"}}), HasSubstr("\"hidden_act\""));
  EXPECT_THAT(refused({{"attn_logit_softcapping", -1}}), HasSubstr("attn_logit_softcapping"));
  EXPECT_THAT(refused({{"query_pre_attn_scalar", 0}}), HasSubstr("query_pre_attn_scalar"));
}

TEST(Config, NamesTheArchitectureItCannotRead) {
  EXPECT_THAT(refusal(minimal("bert")), AllOf(HasSubstr("\"bert\""), HasSubstr("unknown"),
                                              HasSubstr("llama, mistral, qwen2, qwen3, mixtral, qwen2_moe, qwen3_moe, "
                                                        "qwen3_next, gemma, gemma2, phi3, granite")));
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
  const std::vector<std::pair<std::string, Json>> wrong{
      {"num_key_value_heads", 4}, {"head_dim", 7},     {"head_dim", "8"},          {"rms_norm_eps", -1e-5},
      {"rms_norm_eps", "1e-5"},   {"rope_theta", 0},   {"hidden_act", "gelu"},     {"hidden_act", 1},
      {"attention_bias", "true"}, {"mlp_bias", 1},     {"tie_word_embeddings", 0}, {"max_position_embeddings", 0},
      {"bos_token_id", "1"},      {"torch_dtype", 16}, {"rope_scaling", "x"},      {"num_attention_heads", 7}};
  for (const auto& [key, value] : wrong)
    EXPECT_THAT(refusal(with("llama", Json::object({{key, value}}))),
                AllOf(HasSubstr("c.json: key \""), HasSubstr(key)))
        << key << " " << value;
  EXPECT_THAT(refusal(Json::array()), HasSubstr("object"));
}

TEST(Config, TakesValuesThatOfficialReleasesHave) {
  for (const Json& id : {Json(-1), Json(128000), Json(nullptr)})
    EXPECT_EQ(parsed("llama", {{"bos_token_id", id}}).bos_id, std::nullopt) << id;
  EXPECT_EQ(parsed("llama", {{"bos_token_id", {7, 8}}}).bos_id, 7);
  EXPECT_EQ(parsed("llama").bos_id, 1);
  const Json gelu{{"num_key_value_heads", 2}, {"hidden_act", "gelu"}, {"hidden_activation", nullptr}};
  EXPECT_EQ(parsed("gemma", gelu).activation, Activation::gelu_tanh);
  EXPECT_THAT(refusal(with("gemma2", gelu)), HasSubstr("hidden_act")) << "only Gemma 1's releases mean the tanh form";
  EXPECT_EQ(parsed("llama", {{"rope_scaling", Json::object()}}).rope.scaling, RopeScaling::none);
}

TEST(Config, NoKeyIsPassedOverInSilence) {
  const auto said = [](const Json& changes, const std::string& file) {
    testing::internal::CaptureStderr();
    parse_config(with("llama", changes), file);
    return testing::internal::GetCapturedStderr();
  };
  EXPECT_EQ(said({{"use_cache", true},
                  {"pretraining_tp", 1},
                  {"some_feature", false},
                  {"other", nullptr},
                  {"layer_types", {"full_attention", "full_attention", "full_attention"}}},
                 "a.json"),
            "");
  EXPECT_THAT(said({{"clip_qkv", 8.0}}, "b.json"), AllOf(HasSubstr("b.json"), HasSubstr("\"clip_qkv\"")));
  EXPECT_EQ(said({{"clip_qkv", 8.0}}, "b.json"), "") << "said once";
  EXPECT_THAT(said({{"layer_types", {"sliding_attention", "full_attention", "full_attention"}}}, "c.json"),
              HasSubstr("layer_types"));
  EXPECT_THAT(said({{"rope_parameters", {{"rope_type", "linear"}, {"factor", 2}, {"warp", 3}}}}, "d.json"),
              HasSubstr("rope_parameters.warp"));
  EXPECT_THAT(refusal(with("llama", {{"rope_parameters", {{"full_attention", {{"rope_type", "default"}}}}}})),
              HasSubstr("rope_parameters.full_attention"));
  EXPECT_THAT(refusal(with("llama", {{"rope_parameters", {{"rope_type", "default"}, {"partial_rotary_factor", 0.5}}}})),
              HasSubstr("rope_parameters.partial_rotary_factor"));
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

TEST(BlockSites, GiveEachExpertItsOwn) {
  const ModelConfig mixtral = parsed("mixtral", kMixtral);
  std::vector<SiteSpec> sites = block_sites(mixtral, 1);
  ASSERT_EQ(sites.size(), 2U + 2 * 8);
  EXPECT_EQ(sites[usual_places.o].name, "o");
  EXPECT_EQ(sites[usual_places.gate_up + 6].name, "expert.3.gate_up");
  EXPECT_EQ(sites[usual_places.gate_up + 6].expert, 3);
  EXPECT_EQ(sites[usual_places.gate_up + 6].linears.at(0).name, "model.layers.1.block_sparse_moe.experts.3.w1");
  EXPECT_EQ(sites[usual_places.gate_up + 6].linears.at(1).name, "model.layers.1.block_sparse_moe.experts.3.w3");
  EXPECT_EQ(sites[usual_places.gate_up + 7].linears.at(0).name, "model.layers.1.block_sparse_moe.experts.3.w2");
  EXPECT_EQ(sites[usual_places.gate_up + 7].in_features, 80);
  sites = block_sites(parsed("qwen2_moe", changed(kQwenMixture, {{"mlp_only_layers", {0}}})), 0);
  EXPECT_EQ(sites.size(), 4U);
  sites = block_sites(parsed("qwen2_moe", kQwenMixture), 0);
  ASSERT_EQ(sites.size(), 2U + 2 * 8 + 2);
  EXPECT_EQ(sites[18].name, "shared_expert.gate_up");
  EXPECT_EQ(sites[18].expert, -1);
  EXPECT_EQ(sites[19].linears.at(0).name, "model.layers.0.mlp.shared_expert.down_proj");
  EXPECT_EQ(sites[19].in_features, 20);
}

TEST(BlockSites, KeepFusedProjectionsWhole) {
  const std::vector<SiteSpec> sites = block_sites(parsed("phi3", {{"num_key_value_heads", 2}}), 2);
  ASSERT_EQ(sites.size(), 4U);
  ASSERT_EQ(sites[usual_places.qkv].linears.size(), 1U);
  EXPECT_EQ(sites[usual_places.qkv].linears[0].name, "model.layers.2.self_attn.qkv_proj");
  EXPECT_EQ(sites[usual_places.qkv].linears[0].out_features, 48 + 2 * 16);
  ASSERT_EQ(sites[usual_places.gate_up].linears.size(), 1U);
  EXPECT_EQ(sites[usual_places.gate_up].linears[0].out_features, 160);
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
  const std::set<std::string> mixture = names(parsed("qwen2_moe", kQwenMixture));
  EXPECT_TRUE(mixture.contains("model.layers.0.mlp.gate.weight [8, 48]"));
  EXPECT_TRUE(mixture.contains("model.layers.0.mlp.shared_expert_gate.weight [1, 48]"));
  EXPECT_TRUE(names(parsed("mixtral", kMixtral)).contains("model.layers.2.block_sparse_moe.gate.weight [8, 48]"));
  EXPECT_TRUE(names(parsed("gemma2", {{"num_key_value_heads", 2}}))
                  .contains("model.layers.2.post_feedforward_layernorm.weight [48]"));
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
  const MixtureConfig mixtral = read("mixtral").mixture;
  EXPECT_EQ(mixtral.n_experts, 4);
  EXPECT_EQ(mixtral.top_k, 2);
  EXPECT_EQ(mixtral.expert_size, 38);
  EXPECT_EQ(mixtral.shared_size, 0);
  EXPECT_TRUE(mixtral.renormalise);
  EXPECT_THAT(mixtral.layers, ElementsAre(true, true));
  const ModelConfig qwen2_moe = read("qwen2-moe");
  EXPECT_EQ(qwen2_moe.mixture.shared_size, 34);
  EXPECT_FALSE(qwen2_moe.mixture.renormalise);
  EXPECT_TRUE(qwen2_moe.qkv_bias && !qwen2_moe.o_bias);
  const ModelConfig qwen3_moe = read("qwen3-moe");
  EXPECT_THAT(qwen3_moe.mixture.layers, ElementsAre(true, false));
  EXPECT_TRUE(qwen3_moe.mixture.renormalise && qwen3_moe.qk_norm);
  const ModelConfig gemma = read("gemma"), gemma2 = read("gemma2");
  EXPECT_TRUE(gemma.tied_embeddings && gemma.norm_plus_one && gemma.norms.attention_out.empty());
  EXPECT_EQ(gemma.activation, Activation::gelu_tanh);
  EXPECT_DOUBLE_EQ(gemma.embedding_scale, std::sqrt(54.0));
  EXPECT_THAT(gemma2.window, ElementsAre(10, 0, 10));
  EXPECT_TRUE(gemma2.tied_embeddings && !gemma2.norms.attention_out.empty());
  EXPECT_DOUBLE_EQ(gemma2.attention_scale, 1 / std::sqrt(24.0));
  EXPECT_DOUBLE_EQ(gemma2.attention_softcap, 3);
  EXPECT_DOUBLE_EQ(gemma2.logit_softcap, 4);
  EXPECT_TRUE(read("phi3").fused_qkv && read("phi3").fused_gate_up);
}

}  // namespace
}  // namespace voronoi::model
