// What a checkpoint has beside its language model goes through an export as it is.
#include <gmock/gmock.h>

#include <algorithm>
#include <memory>
#include <string>

#include "export/checkpoint.h"
#include "export/checkpoints.h"
#include "support/data.h"
#include "support/temporary.h"

namespace voronoi::exporting {
namespace {

using test::TensorSet;
using testing::Contains;

/// An export of a model directory with random codes.
struct Exported {
  explicit Exported(const std::filesystem::path& model) : source(model::open_model(model.string())) {
    model::for_each_linear(source->config(), [&](const model::SiteSpec&, const model::LinearSpec& linear) {
      encodings[linear.name] =
          test::random_encoding(linear, {8, 256, 16}, source->config().stored_dtype, encodings.size());
    });
    ExportRequest request;
    request.layout = find_layout("vptq");
    request.original = source.get();
    request.tokenizer = model.string();
    request.encoding = [this](const std::string& name) { return encodings.at(name); };
    request.origin.method = "vptq";
    for (const auto& [name, encoding] : encodings) request.origin.layers[name] = std::string(64, 'a');
    write_checkpoint(request, folder / "out", folder / "making");
    before = TensorSet::read(model / "model.safetensors").tensors;
    after = TensorSet::read(folder / "out" / "model.safetensors").tensors;
  }

  /// How many tensors with that beginning are there, all as they were.
  std::size_t kept(const std::string& prefix) const {
    std::size_t n = 0;
    for (const auto& [name, tensor] : before) {
      if (!name.starts_with(prefix)) continue;
      ++n;
      const auto found = after.find(name);
      if (found == after.end()) {
        ADD_FAILURE() << name << " is lost";
        continue;
      }
      EXPECT_EQ(found->second.dtype, tensor.dtype) << name;
      EXPECT_EQ(found->second.shape, tensor.shape) << name;
      EXPECT_EQ(found->second.bytes, tensor.bytes) << name;
    }
    return n;
  }

  /// Read back: every linear, and the names that the client has for modules.
  core::Json expect_readable() const {
    const Checkpoint written((folder / "out").string());
    EXPECT_EQ(written.linears().size(), encodings.size());
    for (const auto& [name, encoding] : encodings) EXPECT_EQ(written.encoding(name), encoding) << name;
    for (const char* name : {"model.norm.weight", "model.layers.1.input_layernorm.weight"}) {
      const model::TensorSpec spec{name, {source->config().hidden_size}};
      std::vector<float> was(static_cast<std::size_t>(spec.shape[0])), is(was.size());
      source->read(spec, was);
      written.read(spec, is);
      for (float& value : was) value = core::round_to(source->config().stored_dtype, value);
      EXPECT_EQ(is, was) << name;
    }
    return core::read_json_file((folder / "out" / "config.json").string()).at("quantization_config");
  }

  test::TemporaryFolder folder;
  std::unique_ptr<model::WeightSource> source;
  std::map<std::string, format::Encoding> encodings;
  std::map<std::string, TensorSet::Tensor> before, after;
};

struct Wrapper {
  const char *name, *language_model;
  std::vector<std::string> others;
  const char* other_linear;  ///< as the client calls one
};

void PrintTo(const Wrapper& wrapper, std::ostream* stream) { *stream << wrapper.name; }

class Wrapped : public ::testing::TestWithParam<Wrapper> {};

TEST_P(Wrapped, KeepsItsOtherPartsAndItsNames) {
  const std::string model = std::string("models/tiny-random-more/") + GetParam().name;
  VORONOI_NEEDS_DATA(model);
  const Exported exported{test::data_path(model)};
  for (const std::string& prefix : GetParam().others) EXPECT_GE(exported.kept(prefix), 2U) << prefix;
  const std::string base = GetParam().language_model;
  for (const auto& [name, tensor] : exported.before)
    if (name.starts_with(base) && name.find("norm") != std::string::npos) {
      EXPECT_TRUE(exported.after.contains(name)) << name;
    }
  for (const auto& [name, encoding] : exported.encodings)
    EXPECT_TRUE(exported.after.contains(base + name.substr(6) + ".indices")) << name;
  const core::Json quantization = exported.expect_readable();
  EXPECT_TRUE(quantization.at("config_for_layers").contains("model.language_model.layers.1.mlp.down_proj"));
  EXPECT_THAT(quantization.at("modules_to_not_convert").get<std::vector<std::string>>(),
              Contains(GetParam().other_linear));
}

INSTANTIATE_TEST_SUITE_P(All, Wrapped,
                         ::testing::Values(Wrapper{"gemma3-vision",
                                                   "language_model.model.",
                                                   {"vision_tower.", "multi_modal_projector."},
                                                   "model.vision_tower.vision_model.encoder.layers.0.mlp.fc1"},
                                           Wrapper{"qwen3-vl",
                                                   "model.language_model.",
                                                   {"model.visual."},
                                                   "model.visual.blocks.0.mlp.linear_fc1"}),
                         [](const auto& parameter) {
                           std::string name = parameter.param.name;
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

TEST(MultiTokenPrediction, OfAPublishedFormIsKept) {
  VORONOI_NEEDS_DATA("models/tiny-random-more/deepseek-v3-fp8");
  const Exported exported{test::data_path("models/tiny-random-more/deepseek-v3-fp8")};
  EXPECT_GE(exported.kept("model.layers.2."), 4U);
  exported.expect_readable();
}

TEST(MultiTokenPrediction, IsKeptInBothWaysOfNaming) {
  const core::Json deepseek{{"model_type", "deepseek_v3"},
                            {"hidden_size", 24},
                            {"intermediate_size", 44},
                            {"moe_intermediate_size", 12},
                            {"num_hidden_layers", 2},
                            {"num_attention_heads", 2},
                            {"num_key_value_heads", 2},
                            {"q_lora_rank", 8},
                            {"kv_lora_rank", 8},
                            {"qk_nope_head_dim", 4},
                            {"qk_rope_head_dim", 4},
                            {"v_head_dim", 4},
                            {"n_routed_experts", 4},
                            {"n_group", 2},
                            {"topk_group", 1},
                            {"num_experts_per_tok", 2},
                            {"first_k_dense_replace", 1},
                            {"num_nextn_predict_layers", 1},
                            {"vocab_size", 11},
                            {"torch_dtype", "bfloat16"}};
  const core::Json next{{"model_type", "qwen3_next"},
                        {"hidden_size", 24},
                        {"intermediate_size", 44},
                        {"moe_intermediate_size", 12},
                        {"shared_expert_intermediate_size", 12},
                        {"num_hidden_layers", 2},
                        {"num_attention_heads", 2},
                        {"num_key_value_heads", 2},
                        {"head_dim", 8},
                        {"full_attention_interval", 2},
                        {"linear_num_key_heads", 1},
                        {"linear_num_value_heads", 2},
                        {"linear_key_head_dim", 4},
                        {"linear_value_head_dim", 6},
                        {"num_experts", 4},
                        {"num_experts_per_tok", 2},
                        {"vocab_size", 11},
                        {"torch_dtype", "bfloat16"}};
  for (const auto& [config, prefix] : {std::pair{deepseek, "model.layers.2."}, std::pair{next, "mtp."}}) {
    const test::TemporaryFolder folder;
    test::write_model(folder / "model", config);
    auto set = TensorSet::read(folder / "model" / "model.safetensors");
    set.tensors[std::string(prefix) + "eh_proj.weight"] = {"F8_E4M3", {3, 5}, std::string(15, '\x3c')};
    set.tensors[std::string(prefix) + "eh_proj.weight_scale_inv"] = {"F32", {1, 1}, std::string(4, '\x3f')};
    set.tensors[std::string(prefix) + "enorm.weight"] = {"BF16", {3}, "abcdef"};
    set.write(folder / "model" / "model.safetensors");
    const Exported exported(folder / "model");
    EXPECT_EQ(exported.kept(prefix), 3U);
    const core::Json quantization = exported.expect_readable();
    EXPECT_THAT(quantization.at("modules_to_not_convert").get<std::vector<std::string>>(),
                Contains(std::string(prefix) + "eh_proj"));
  }
}

}  // namespace
}  // namespace voronoi::exporting
