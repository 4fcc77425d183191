// What a config.json of the further architectures says and leaves out, and what of it is refused.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <string>

#include "core/error.h"
#include "model/config.h"
#include "model/fused_experts.h"

namespace voronoi::model {
namespace {

using core::Json;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

Json of(const std::string& model_type, const Json& changes = Json::object()) {
  Json json{{"model_type", model_type}, {"hidden_size", 48},        {"intermediate_size", 80}, {"num_hidden_layers", 4},
            {"num_attention_heads", 6}, {"num_key_value_heads", 2}, {"head_dim", 8},           {"vocab_size", 100}};
  json.update(changes);
  return json;
}

ModelConfig family_config(const std::string& model_type, const Json& changes = Json::object()) {
  return parse_config(of(model_type, changes), "c.json");
}

std::string family_refusal(const Json& json) {
  try {
    parse_config(json, "c.json");
  } catch (const core::FormatError& error) {
    return error.what();
  }
  return "accepted";
}

TEST(Families, LongropeTakesItsLengthsFromBesideTheObject) {
  const Json lists{{"type", "longrope"}, {"short_factor", {1, 1, 1, 1}}, {"long_factor", {1, 2, 3, 4}}};
  const Json lengths{{"max_position_embeddings", 64}, {"original_max_position_embeddings", 16}};
  const auto phi = [&](const Json& scaling, const Json& more = Json::object()) {
    Json changes = lengths;
    changes.update(more);
    changes["rope_scaling"] = scaling;
    return of("phi3", changes);
  };
  for (const char* type : {"longrope", "su", "yarn"}) {  // as older files of the family call it
    Json scaling = lists;
    scaling["type"] = type;
    const RopeConfig rope = parse_config(phi(scaling), "c.json").rope;
    EXPECT_EQ(rope.scaling, RopeScaling::longrope);
    EXPECT_DOUBLE_EQ(rope.factor, 4);
    EXPECT_DOUBLE_EQ(rope.original_max_position, 16);
    EXPECT_THAT(rope.long_factor, ElementsAre(1, 2, 3, 4));
  }
  Json scaling = lists;
  scaling["long_factor"] = {1, 2, 3};
  EXPECT_THAT(family_refusal(phi(scaling)), HasSubstr("rope_scaling.long_factor"));
  scaling["long_factor"] = {1, 2, 3, 0};
  EXPECT_THAT(family_refusal(phi(scaling)), HasSubstr("rope_scaling.long_factor"));
  // A part of the head has fewer pairs.
  EXPECT_THAT(family_refusal(phi(lists, {{"partial_rotary_factor", 0.75}})), HasSubstr("short_factor"));
  const ModelConfig part = family_config("phi3", {{"partial_rotary_factor", 0.75}});
  EXPECT_EQ(part.n_turned, 6);
  EXPECT_THAT(family_refusal(of("phi3", {{"partial_rotary_factor", 0.4}})), HasSubstr("partial_rotary_factor"));
  EXPECT_THAT(family_refusal(of("phi3", {{"partial_rotary_factor", 2}})), HasSubstr("partial_rotary_factor"));
  EXPECT_THAT(
      family_refusal(of("llama", {{"head_dim", 2}, {"rope_scaling", {{"rope_type", "dynamic"}, {"factor", 2}}}})),
      HasSubstr("dynamic"));
}

TEST(Families, DefaultsAreThoseOfTheClasses) {
  const ModelConfig granite = family_config("granite");
  EXPECT_DOUBLE_EQ(granite.attention_scale, 1);
  EXPECT_DOUBLE_EQ(granite.residual_scale * granite.logit_scale * granite.embedding_scale, 1);
  EXPECT_DOUBLE_EQ(family_config("granite", {{"logits_scaling", 8}}).logit_scale, 0.125);
  const ModelConfig glm = family_config("glm4");
  EXPECT_EQ(glm.n_turned, 4);
  EXPECT_TRUE(glm.rope_interleaved && glm.fused_gate_up && !glm.fused_qkv && !glm.qkv_bias);
  EXPECT_TRUE(family_config("glm4", {{"attention_bias", true}}).qkv_bias);
  EXPECT_FALSE(family_config("glm4", {{"attention_bias", true}}).o_bias);
  const ModelConfig cohere = family_config("cohere2");
  EXPECT_THAT(cohere.window, ElementsAre(4096, 4096, 4096, 0));
  EXPECT_THAT(cohere.layer_rope, ElementsAre(LayerRope::main, LayerRope::main, LayerRope::main, LayerRope::none));
  EXPECT_TRUE(cohere.tied_embeddings && cohere.parallel_block && cohere.norm_kind == NormKind::layer);
  EXPECT_DOUBLE_EQ(cohere.logit_scale, 0.0625);
  EXPECT_THAT(family_refusal(of("cohere2", {{"use_qk_norm", true}})), HasSubstr("use_qk_norm"));
  const ModelConfig olmo = family_config("olmo2");
  EXPECT_TRUE(olmo.qk_norm_whole && olmo.norms.input.empty() && olmo.norms.feed_forward.empty());
}

TEST(Families, Gemma3IsReadAloneAndWithinItsWrapper) {
  const ModelConfig gemma = family_config("gemma3_text", {{"num_hidden_layers", 7}});
  EXPECT_THAT(gemma.window, ElementsAre(4096, 4096, 4096, 4096, 4096, 0, 4096));
  EXPECT_EQ(gemma.layer_rope[0], LayerRope::local);
  EXPECT_EQ(gemma.layer_rope[5], LayerRope::main);
  EXPECT_DOUBLE_EQ(gemma.rope.theta, 1e6);
  EXPECT_DOUBLE_EQ(gemma.local_rope.theta, 10000);
  EXPECT_TRUE(gemma.tied_embeddings);
  EXPECT_THAT(family_config("gemma3_text", {{"sliding_window_pattern", 2}}).window, ElementsAre(4096, 0, 4096, 0));
  EXPECT_THAT(family_refusal(of("gemma3_text", {{"use_bidirectional_attention", true}})), HasSubstr("bidirectional"));

  // Sizes that a class has by default are left out of what a wrapper says.
  Json wrapped{{"model_type", "gemma3"},
               {"eos_token_id", {1, 106}},
               {"text_config", {{"hidden_size", 2560}, {"intermediate_size", 10240}, {"num_hidden_layers", 2}}}};
  const ModelConfig text = parse_config(wrapped, "c.json");
  EXPECT_EQ(text.model_type, "gemma3_text");
  EXPECT_EQ(text.wrapper, "gemma3");
  EXPECT_EQ(text.n_heads * 1000000 + text.vocab_size, 8262208);
  EXPECT_THAT(text.end_ids, ElementsAre(1, 106));
  wrapped["text_config"]["hidden_size"] = "x";
  EXPECT_THAT(family_refusal(wrapped), HasSubstr("text_config.hidden_size"));
  wrapped["text_config"] = {{"model_type", "llama"}};
  EXPECT_THAT(family_refusal(wrapped), HasSubstr("text_config.model_type"));
  wrapped.erase("text_config");
  EXPECT_THAT(family_refusal(wrapped), HasSubstr("text_config"));
}

TEST(Families, LayersOfLlama4) {
  const Json sizes{{"intermediate_size_mlp", 64}, {"num_local_experts", 4}, {"num_experts_per_tok", 1}};
  const auto with = [&](Json changes) {
    changes.update(sizes);
    return of("llama4_text", changes);
  };
  const ModelConfig config = parse_config(with({{"interleave_moe_layer_step", 2}}), "c.json");
  EXPECT_THAT(config.layer_rope, ElementsAre(LayerRope::main, LayerRope::main, LayerRope::main, LayerRope::none));
  EXPECT_THAT(config.chunk, ElementsAre(8192, 8192, 8192, 0));
  EXPECT_THAT(config.mixture.layers, ElementsAre(false, true, false, true));
  EXPECT_EQ(config.intermediate_size, 64);
  EXPECT_EQ(config.mixture.expert_size, 80);
  EXPECT_TRUE(config.qk_norm_plain);
  EXPECT_DOUBLE_EQ(config.query_growth, 0.1);
  EXPECT_DOUBLE_EQ(parse_config(with({{"attn_temperature_tuning", 0}}), "c.json").query_growth, 0);
  EXPECT_THAT(family_refusal(with({{"no_rope_layers", {1, 1}}})), HasSubstr("no_rope_layers"));
  EXPECT_THAT(family_refusal(with({{"no_rope_layers", {1, 2, 0, 1}}})), HasSubstr("no_rope_layers"));
  EXPECT_THAT(family_refusal(with({{"moe_layers", {4}}})), HasSubstr("moe_layers"));
}

TEST(Families, RoutersAndLatentAttentionOfDeepSeek) {
  const Json sizes{{"moe_intermediate_size", 16},
                   {"n_routed_experts", 8},
                   {"num_experts_per_tok", 2},
                   {"n_group", 4},
                   {"topk_group", 2},
                   {"first_k_dense_replace", 1},
                   {"q_lora_rank", 12},
                   {"kv_lora_rank", 10},
                   {"qk_nope_head_dim", 6},
                   {"qk_rope_head_dim", 4},
                   {"v_head_dim", 8},
                   {"num_key_value_heads", 6}};
  const auto with = [&](const Json& changes) {
    Json json = of("deepseek_v3", sizes);
    json.update(changes);
    return json;
  };
  const ModelConfig config = parse_config(with(Json::object()), "c.json");
  EXPECT_EQ(config.head_dim, 10);
  EXPECT_EQ(config.n_turned, 4);
  EXPECT_DOUBLE_EQ(config.attention_scale, 1 / std::sqrt(10.0));
  EXPECT_THAT(config.mixture.layers, ElementsAre(false, true, true, true));
  const SitePlaces places = site_places(config);
  const std::vector<SiteSpec> sites = block_sites(config, 0);
  EXPECT_EQ(sites[places.q_b].name + sites[places.kv_b].name + sites[places.o].name + sites[places.gate_up].name,
            "q_bkv_bogate_up");
  const ModelConfig direct = parse_config(with({{"q_lora_rank", nullptr}}), "c.json");
  EXPECT_EQ(block_sites(direct, 0)[0].linears[0].name, "model.layers.0.self_attn.q_proj");
  EXPECT_EQ(block_sites(direct, 0)[1].name, "kv_b");
  const Json yarn{{"type", "yarn"}, {"factor", 4}, {"mscale", 1}, {"mscale_all_dim", 0.5}};
  EXPECT_DOUBLE_EQ(parse_config(with({{"rope_scaling", yarn}}), "c.json").attention_scale,
                   std::pow(0.05 * std::log(4.0) + 1, 2) / std::sqrt(10.0));
  EXPECT_THAT(family_refusal(with({{"n_group", 3}})), HasSubstr("n_group"));
  EXPECT_THAT(family_refusal(with({{"n_group", 8}})), HasSubstr("n_group"));
  EXPECT_THAT(family_refusal(with({{"topk_group", 5}})), HasSubstr("topk_group"));
  EXPECT_THAT(family_refusal(with({{"num_experts_per_tok", 5}})), HasSubstr("num_experts_per_tok"));
  EXPECT_THAT(family_refusal(with({{"scoring_func", "softmax"}})), HasSubstr("scoring_func"));
  EXPECT_THAT(family_refusal(with({{"v_head_dim", 12}})), HasSubstr("v_head_dim"));
  EXPECT_THAT(family_refusal(with({{"moe_layer_freq", 2}})), HasSubstr("moe_layer_freq"));
}

TEST(Families, LayersOfTheDeltaRule) {
  const Json sizes{{"moe_intermediate_size", 16},
                   {"num_experts", 6},
                   {"num_experts_per_tok", 2},
                   {"shared_expert_intermediate_size", 20}};
  const auto with = [&](const Json& changes) {
    Json json = of("qwen3_next", sizes);
    json.update(changes);
    return json;
  };
  const ModelConfig config = parse_config(with(Json::object()), "c.json");
  EXPECT_THAT(config.delta.layers, ElementsAre(true, true, true, false));
  EXPECT_EQ(config.delta.channels(), 2 * 16 * 128 + 32 * 128);
  EXPECT_EQ(config.n_turned, 2);
  EXPECT_TRUE(config.norm_plus_one && config.attention_gate && config.qk_norm && config.mixture.renormalise &&
              config.mixture.shared_gate && !config.tied_embeddings);
  const std::vector<SiteSpec> delta = block_sites(config, 2), full = block_sites(config, 3);
  EXPECT_EQ(delta[0].name + delta[1].name, "linear.inlinear.out");
  EXPECT_EQ(delta[0].linears[0].out_features, 2 * 16 * 128 + 2 * 32 * 128);
  EXPECT_EQ(full[0].linears[0].out_features, 2 * 6 * 8);
  EXPECT_EQ(full[1].in_features, 6 * 8);
  EXPECT_THAT(parse_config(with({{"full_attention_interval", 2}}), "c.json").delta.layers,
              ElementsAre(true, false, true, false));
  const Json types{"full_attention", "full_attention", "linear_attention", "full_attention"};
  EXPECT_THAT(parse_config(with({{"layer_types", types}}), "c.json").delta.layers,
              ElementsAre(false, false, true, false));
  EXPECT_THAT(family_refusal(with({{"layer_types", {"linear_attention"}}})), HasSubstr("layer_types"));
  EXPECT_THAT(family_refusal(with({{"linear_num_value_heads", 24}})), HasSubstr("linear_num_value_heads"));
  EXPECT_THAT(family_refusal(with({{"linear_key_head_dim", 1000}})), HasSubstr("linear_key_head_dim"));
}

TEST(Families, FusedExpertsAreReadAsLinears) {
  const Json sizes{{"num_local_experts", 3}, {"num_experts_per_tok", 2}};
  Json json = of("gpt_oss", sizes);
  EXPECT_THAT(family_refusal(json), HasSubstr("rope_scaling")) << "the class has a scaling of its own";
  json["rope_scaling"] = nullptr;
  const ModelConfig config = parse_config(json, "c.json");
  EXPECT_THAT(config.window, ElementsAre(128, 0, 128, 0));
  EXPECT_TRUE(config.sinks && config.qkv_bias && config.o_bias);
  const auto all = [](const std::string&, const core::Shape&) { return true; };
  const auto slices = expert_slices(config, all);
  EXPECT_EQ(slices.size(), 4U * 3 * 3 * 2);
  const ExpertSlice up = slices.at("model.layers.2.mlp.experts.1.up_proj.weight");
  EXPECT_EQ(up.stored, "model.layers.2.mlp.experts.gate_up_proj");
  EXPECT_THAT(up.shape, ElementsAre(3, 48, 160));
  EXPECT_EQ(up.expert * 1000 + up.first_column * 100 + up.column_step, 1102);
  const ExpertSlice down = slices.at("model.layers.2.mlp.experts.1.down_proj.bias");
  EXPECT_EQ(down.stored, "model.layers.2.mlp.experts.down_proj_bias");
  EXPECT_THAT(down.shape, ElementsAre(3, 48));
  EXPECT_TRUE(expert_slices(family_config("llama"), all).empty());
  const auto one = expert_slices(config, [](const std::string& stored, const core::Shape&) {
    return stored == "model.layers.0.mlp.experts.down_proj";
  });
  EXPECT_EQ(one.size(), 3U);
}

}  // namespace
}  // namespace voronoi::model
