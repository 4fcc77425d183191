// Sizes of published models by their config.json: the numbers of parameters that their makers state.
#include <gtest/gtest.h>

#include <set>
#include <string>

#include "model/config.h"
#include "model/each_linear.h"

namespace voronoi::model {
namespace {

struct Published {
  const char* name;
  core::Json config;
  std::int64_t n_parameters, n_sites;
};

void PrintTo(const Published& model, std::ostream* stream) { *stream << model.name; }

class PublishedModel : public ::testing::TestWithParam<Published> {};

TEST_P(PublishedModel, HasItsNumberOfParametersAndOneFileASite) {
  const ModelConfig config = parse_config(GetParam().config, "config.json");
  std::int64_t n_parameters = 0;
  for (const TensorSpec& spec : expected_tensors(config)) n_parameters += core::element_count(spec.shape).value();
  EXPECT_EQ(n_parameters, GetParam().n_parameters);
  std::set<std::string> files, linears;
  for_each_site(config, [&](std::int64_t layer, const SiteSpec& site) {
    EXPECT_TRUE(files.insert(std::to_string(layer) + " " + site.name).second) << site.name;
    EXPECT_EQ(site.name.find_first_not_of("abcdefghijklmnopqrstuvwxyz_.0123456789"), std::string::npos);
  });
  for_each_linear(config, [&](const SiteSpec&, const LinearSpec& linear) {
    EXPECT_TRUE(linears.insert(linear.name).second) << linear.name;
  });
  EXPECT_EQ(static_cast<std::int64_t>(files.size()), GetParam().n_sites);
}

const Published kPublished[] = {
    {"Mixtral_8x7B",
     {{"model_type", "mixtral"},
      {"hidden_size", 4096},
      {"intermediate_size", 14336},
      {"num_hidden_layers", 32},
      {"num_attention_heads", 32},
      {"num_key_value_heads", 8},
      {"num_local_experts", 8},
      {"num_experts_per_tok", 2},
      {"vocab_size", 32000}},
     46'702'792'704,
     32 * (2 + 2 * 8)},
    {"Qwen15_MoE_A27B",
     {{"model_type", "qwen2_moe"},
      {"hidden_size", 2048},
      {"intermediate_size", 5632},
      {"num_hidden_layers", 24},
      {"num_attention_heads", 16},
      {"num_key_value_heads", 16},
      {"num_experts", 60},
      {"num_experts_per_tok", 4},
      {"moe_intermediate_size", 1408},
      {"shared_expert_intermediate_size", 5632},
      {"vocab_size", 151936}},
     14'315'784'192,
     24 * (2 + 2 * 60 + 2)},
    {"Qwen3_30B_A3B",
     {{"model_type", "qwen3_moe"},
      {"hidden_size", 2048},
      {"intermediate_size", 6144},
      {"num_hidden_layers", 48},
      {"num_attention_heads", 32},
      {"num_key_value_heads", 4},
      {"head_dim", 128},
      {"num_experts", 128},
      {"num_experts_per_tok", 8},
      {"moe_intermediate_size", 768},
      {"norm_topk_prob", true},
      {"vocab_size", 151936}},
     30'532'122'624,
     48 * (2 + 2 * 128)},
    {"Qwen3_Next_80B_A3B",
     {{"model_type", "qwen3_next"},
      {"hidden_size", 2048},
      {"intermediate_size", 5120},
      {"num_hidden_layers", 48},
      {"num_attention_heads", 16},
      {"num_experts", 512},
      {"num_experts_per_tok", 10},
      {"moe_intermediate_size", 512},
      {"shared_expert_intermediate_size", 512},
      {"vocab_size", 151936}},
     79'674'391'296,
     48 * (2 + 2 * 512 + 2)},
    {"Gemma_2B",
     {{"model_type", "gemma"},
      {"hidden_size", 2048},
      {"intermediate_size", 16384},
      {"num_hidden_layers", 18},
      {"num_attention_heads", 8},
      {"num_key_value_heads", 1},
      {"vocab_size", 256000}},
     2'506'172'416,
     18 * 4},
    {"Gemma2_2B",
     {{"model_type", "gemma2"},
      {"hidden_size", 2304},
      {"intermediate_size", 9216},
      {"num_hidden_layers", 26},
      {"num_attention_heads", 8},
      {"num_key_value_heads", 4},
      {"vocab_size", 256000}},
     2'614'341'888,
     26 * 4},
    {"Phi3_mini_4k",
     {{"model_type", "phi3"},
      {"hidden_size", 3072},
      {"intermediate_size", 8192},
      {"num_hidden_layers", 32},
      {"num_attention_heads", 32},
      {"num_key_value_heads", 32},
      {"sliding_window", 2047},
      {"vocab_size", 32064}},
     3'821'079'552,
     32 * 4},
    {"Gemma_3_27B_text",
     {{"model_type", "gemma3_text"},
      {"hidden_size", 5376},
      {"intermediate_size", 21504},
      {"num_hidden_layers", 62},
      {"num_attention_heads", 32},
      {"num_key_value_heads", 16},
      {"head_dim", 128}},
     27'009'346'304,
     62 * 4},
    {"GptOss_120B",
     {{"model_type", "gpt_oss"},
      {"hidden_size", 2880},
      {"intermediate_size", 2880},
      {"num_hidden_layers", 36},
      {"num_attention_heads", 64},
      {"num_local_experts", 128},
      {"num_experts_per_tok", 4},
      {"rope_scaling", nullptr},
      {"vocab_size", 201088}},
     116'829'156'672,
     36 * (2 + 2 * 128)},
    {"Llama_4_Maverick_text",
     {{"model_type", "llama4_text"},
      {"hidden_size", 5120},
      {"intermediate_size", 8192},
      {"intermediate_size_mlp", 16384},
      {"num_hidden_layers", 48},
      {"num_attention_heads", 40},
      {"num_local_experts", 128},
      {"num_experts_per_tok", 1},
      {"interleave_moe_layer_step", 2},
      {"vocab_size", 202048}},
     400'711'848'960,
     48 * 2 + 24 * 2 + 24 * 2 * 129},
    {"DeepSeek_V3",
     {{"model_type", "deepseek_v3"},
      {"hidden_size", 7168},
      {"intermediate_size", 18432},
      {"moe_intermediate_size", 2048},
      {"num_hidden_layers", 61},
      {"num_attention_heads", 128},
      {"q_lora_rank", 1536},
      {"kv_lora_rank", 512},
      {"qk_nope_head_dim", 128},
      {"qk_rope_head_dim", 64},
      {"v_head_dim", 128},
      {"n_routed_experts", 256},
      {"num_experts_per_tok", 8},
      {"vocab_size", 129280}},
     671'026'419'200,
     61 * 4 + 3 * 2 + 58 * 2 * 257},
};

INSTANTIATE_TEST_SUITE_P(All, PublishedModel, ::testing::ValuesIn(kPublished),
                         [](const ::testing::TestParamInfo<Published>& parameter) {
                           return std::string(parameter.param.name);
                         });

}  // namespace
}  // namespace voronoi::model
