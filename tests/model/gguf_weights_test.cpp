#include "model/gguf_weights.h"

#include <gmock/gmock.h>

#include <cmath>
#include <cstdlib>
#include <functional>
#include <memory>
#include <numbers>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "core/error.h"
#include "core/random.h"
#include "model/gguf.h"
#include "model/gguf_weights.h"
#include "model/mended_source.h"
#include "model/model_files.h"
#include "model/weights.h"
#include "support/skip.h"

namespace voronoi::model {
namespace {

using core::DType;
using test::GgufWriter;
using testing::AllOf;
using testing::HasSubstr;

constexpr std::uint32_t kF32 = 0, kF16 = 1, kQ8 = 8, kBF16 = 30;
constexpr std::int64_t kHidden = 64, kInner = 96, kLayers = 2, kHeads = 4, kKvHeads = 2, kHeadDim = 32,
                       kVocabulary = 11;

/// Metadata and tensors of a small model; members are changed before it is written.
struct SmallModel {
  std::string arch = "llama";
  bool biases = false, head = true, qk_norm = false;
  std::uint32_t type = kF32, norm_type = kF32;
  std::function<void(GgufWriter&)> more = [](GgufWriter&) {};

  /// Multiples of 1/64 below 2, which F16 and BF16 hold; a row number in each value's place tells rows apart.
  static std::vector<float> values(const std::string& name, std::int64_t n) {
    const core::CounterRandom random(3, std::hash<std::string>{}(name));
    std::vector<float> out(static_cast<std::size_t>(n));
    for (std::size_t i = 0; i < out.size(); ++i) out[i] = static_cast<float>(random.below(i, 256)) / 64 - 2;
    return out;
  }

  static std::string encoded(std::uint32_t type, const std::vector<float>& values) {
    if (type != kQ8) return test::encode(type == kF32 ? DType::f32 : type == kF16 ? DType::f16 : DType::bf16, values);
    std::string bytes;
    for (std::size_t i = 0; i < values.size(); ++i) {
      if (i % 32 == 0) bytes += test::bytes_of(core::float_to_half(1.0F / 64));
      bytes += static_cast<char>(std::min(values[i] * 64, 127.0F));
    }
    return bytes;
  }

  std::string bytes() const {
    GgufWriter writer;
    const std::string a = arch + ".";
    writer.text("general.architecture", arch)
        .u32(a + "block_count", kLayers)
        .u32(a + "context_length", 512)
        .u32(a + "embedding_length", kHidden);
    writer.u32(a + "feed_forward_length", kInner)
        .u32(a + "attention.head_count", kHeads)
        .u32(a + "attention.head_count_kv", kKvHeads);
    writer.u32(a + "attention.key_length", kHeadDim)
        .u32(a + "attention.value_length", kHeadDim)
        .f32(a + "rope.freq_base", 100000);
    writer.f32(a + "attention.layer_norm_rms_epsilon", 1e-5F).u32("tokenizer.ggml.bos_token_id", 5);
    const auto add = [&](const std::string& name, std::uint32_t storage, const core::Shape& shape) {
      writer.tensor(name, storage, shape, encoded(storage, values(name, core::element_count(shape).value())));
    };
    add("token_embd.weight", type, {kVocabulary, kHidden});
    add("output_norm.weight", norm_type, {kHidden});
    if (head) add("output.weight", type, {kVocabulary, kHidden});
    for (std::int64_t layer = 0; layer < kLayers; ++layer) {
      const std::string block = "blk." + std::to_string(layer) + ".";
      add(block + "attn_norm.weight", norm_type, {kHidden});
      add(block + "ffn_norm.weight", norm_type, {kHidden});
      if (qk_norm) add(block + "attn_q_norm.weight", norm_type, {kHeadDim});
      if (qk_norm) add(block + "attn_k_norm.weight", norm_type, {kHeadDim});
      const auto linear = [&](const std::string& name, std::int64_t out, std::int64_t in) {
        add(block + name + ".weight", type, {out, in});
        if (biases) add(block + name + ".bias", norm_type, {out});
      };
      linear("attn_q", kHeads * kHeadDim, kHidden);
      linear("attn_k", kKvHeads * kHeadDim, kHidden);
      linear("attn_v", kKvHeads * kHeadDim, kHidden);
      linear("attn_output", kHidden, kHeads * kHeadDim);
      linear("ffn_gate", kInner, kHidden);
      linear("ffn_up", kInner, kHidden);
      linear("ffn_down", kHidden, kInner);
    }
    more(writer);
    return writer.bytes();
  }
};

class GgufModel : public testing::Test {
 protected:
  std::unique_ptr<WeightSource> open(const SmallModel& model) {
    return open_model(folder_.write("m.gguf", model.bytes()));
  }
  std::string refusal(const SmallModel& model) {
    try {
      open(model);
    } catch (const core::FormatError& error) {
      return error.what();
    }
    return "accepted";
  }
  static std::vector<float> read(const WeightSource& source, const std::string& name) {
    for (const TensorSpec& spec : expected_tensors(source.config()))
      if (spec.name == name) {
        std::vector<float> values(static_cast<std::size_t>(core::element_count(spec.shape).value()));
        source.read(spec, values);
        return values;
      }
    ADD_FAILURE() << name << " is not expected";
    return {};
  }
  test::TemporaryFolder folder_;
};

TEST_F(GgufModel, TurnsMetadataIntoAConfig) {
  const auto source = open({});
  const ModelConfig& config = source->config();
  EXPECT_EQ(config.model_type, "llama");
  EXPECT_EQ(config.hidden_size, kHidden);
  EXPECT_EQ(config.intermediate_size, kInner);
  EXPECT_EQ(config.n_layers, kLayers);
  EXPECT_EQ(config.n_heads, kHeads);
  EXPECT_EQ(config.n_kv_heads, kKvHeads);
  EXPECT_EQ(config.head_dim, kHeadDim);
  EXPECT_EQ(config.vocab_size, kVocabulary);
  EXPECT_EQ(config.max_position, 512);
  EXPECT_EQ(config.norm_eps, 1e-5);
  EXPECT_EQ(config.rope.theta, 100000);
  EXPECT_EQ(config.rope.scaling, RopeScaling::none);
  EXPECT_EQ(config.bos_id, 5);
  EXPECT_FALSE(config.tied_embeddings || config.qkv_bias || config.o_bias || config.mlp_bias || config.qk_norm);
  EXPECT_EQ(config.stored_dtype, DType::f16);
  EXPECT_TRUE(open({.head = false})->config().tied_embeddings);
  EXPECT_EQ(open({.type = kBF16})->config().stored_dtype, DType::bf16);
}

TEST_F(GgufModel, ReadsEveryTensorUnderItsHuggingFaceName) {
  const auto source = open({.biases = true});
  const std::vector<std::pair<std::string, std::string>> names{
      {"model.embed_tokens.weight", "token_embd.weight"},
      {"model.norm.weight", "output_norm.weight"},
      {"lm_head.weight", "output.weight"},
      {"model.layers.1.input_layernorm.weight", "blk.1.attn_norm.weight"},
      {"model.layers.1.post_attention_layernorm.weight", "blk.1.ffn_norm.weight"},
      {"model.layers.0.self_attn.v_proj.weight", "blk.0.attn_v.weight"},
      {"model.layers.1.self_attn.v_proj.bias", "blk.1.attn_v.bias"},
      {"model.layers.1.self_attn.o_proj.weight", "blk.1.attn_output.weight"},
      {"model.layers.1.mlp.gate_proj.weight", "blk.1.ffn_gate.weight"},
      {"model.layers.1.mlp.up_proj.bias", "blk.1.ffn_up.bias"},
      {"model.layers.1.mlp.down_proj.weight", "blk.1.ffn_down.weight"}};
  for (const auto& [ours, theirs] : names) {
    const std::vector<float> values = read(*source, ours);
    EXPECT_EQ(values, SmallModel::values(theirs, static_cast<std::int64_t>(values.size()))) << ours;
  }
  for (const TensorSpec& spec : expected_tensors(source->config())) read(*source, spec.name);
}

TEST_F(GgufModel, PutsRowsOfQAndKOfALlamaBackToHalves) {
  const auto source = open({.biases = true});
  for (const auto& [ours, theirs, heads] :
       {std::tuple{"q_proj", "attn_q", kHeads}, std::tuple{"k_proj", "attn_k", kKvHeads}})
    for (const auto& [ending, width] : {std::pair{".weight", kHidden}, std::pair{".bias", std::int64_t{1}}}) {
      const std::vector<float> found = read(*source, std::string("model.layers.1.self_attn.") + ours + ending);
      const std::vector<float> stored =
          SmallModel::values(std::string("blk.1.") + theirs + ending, heads * kHeadDim * width);
      // Row h d + a d / 2 + i of the halves layout is row h d + 2 i + a of the interleaved one.
      for (std::int64_t h = 0; h < heads; ++h)
        for (std::int64_t a = 0; a < 2; ++a)
          for (std::int64_t i = 0; i < kHeadDim / 2; ++i)
            for (std::int64_t c = 0; c < width; ++c)
              ASSERT_EQ(found[static_cast<std::size_t>((h * kHeadDim + a * kHeadDim / 2 + i) * width + c)],
                        stored[static_cast<std::size_t>((h * kHeadDim + 2 * i + a) * width + c)])
                  << ours << ending;
    }
}

TEST_F(GgufModel, LeavesRowsOfOtherArchitecturesAlone) {
  const auto qwen2 = open({.arch = "qwen2", .biases = true});
  EXPECT_TRUE(qwen2->config().qkv_bias);
  EXPECT_EQ(read(*qwen2, "model.layers.0.self_attn.q_proj.weight"),
            SmallModel::values("blk.0.attn_q.weight", kHeads * kHeadDim * kHidden));
  const auto qwen3 = open({.arch = "qwen3", .qk_norm = true});
  EXPECT_TRUE(qwen3->config().qk_norm);
  EXPECT_EQ(read(*qwen3, "model.layers.0.self_attn.k_proj.weight"),
            SmallModel::values("blk.0.attn_k.weight", kKvHeads * kHeadDim * kHidden));
  EXPECT_EQ(read(*qwen3, "model.layers.1.self_attn.q_norm.weight"),
            SmallModel::values("blk.1.attn_q_norm.weight", kHeadDim));
}

TEST_F(GgufModel, IsReadAsItsF16ExportWhenSomethingInItIsQuantized) {
  const float fine = 1.0F + 0x1p-20F;
  const auto with_fine_tensor = [&](std::uint32_t type) {
    SmallModel model{.type = type};
    std::string bytes = model.bytes();
    const std::string stored = SmallModel::encoded(kF32, SmallModel::values("output_norm.weight", kHidden));
    bytes.replace(bytes.find(stored), 4, test::bytes_of(fine));
    return read(*open_model(folder_.write("m.gguf", bytes)), "model.norm.weight")[0];
  };
  EXPECT_EQ(with_fine_tensor(kF32), fine);
  EXPECT_EQ(with_fine_tensor(kQ8), 1.0F);
  const auto source = open({.type = kQ8});
  const std::vector<float> found = read(*source, "model.layers.0.mlp.down_proj.weight"),
                           wanted = SmallModel::values("blk.0.ffn_down.weight", kHidden * kInner);
  for (std::size_t i = 0; i < found.size(); ++i) ASSERT_EQ(found[i], std::min(wanted[i], 127.0F / 64));
}

TEST_F(GgufModel, RefusesValuesF16CannotHold) {
  for (const float bad : {std::nanf(""), 65520.0F, -INFINITY}) {
    std::string bytes = SmallModel{.type = kQ8}.bytes();
    const std::string stored = SmallModel::encoded(kF32, SmallModel::values("output_norm.weight", kHidden));
    bytes.replace(bytes.find(stored) + 8, 4, test::bytes_of(bad));
    const auto source = open_model(folder_.write("m.gguf", bytes));
    std::vector<float> out(kHidden);
    try {
      source->read({"model.norm.weight", {kHidden}}, out);
      FAIL();
    } catch (const core::FormatError& error) {
      EXPECT_THAT(error.what(), AllOf(HasSubstr("m.gguf"), HasSubstr("model.norm.weight"),
                                      HasSubstr("output_norm.weight"), HasSubstr("[2]")));
    }
  }
}

TEST_F(GgufModel, AMendedTensorHasTheGoodOnesWithZerosForBadValues) {
  const std::string good = SmallModel{}.bytes(),
                    stored = SmallModel::encoded(
                        kF32, SmallModel::values("blk.1.attn_q.weight", kHeads * kHeadDim * kHidden));
  const std::string name = "model.layers.1.self_attn.q_proj.weight";
  // Row 1 of the file, which is put elsewhere: the third value.
  std::string bad = good;
  bad.replace(bad.find(stored) + 4 * (kHidden + 2), 4, test::bytes_of(INFINITY));
  const auto whole = open_model(folder_.write("good.gguf", good)), damaged = open_model(folder_.write("bad.gguf", bad));
  const MendedSource mended(*damaged);
  EXPECT_TRUE(mended.damage().empty());
  const std::vector<float> expected = read(*whole, name), found = read(mended, name);
  const std::size_t place = static_cast<std::size_t>(kHeadDim / 2 * kHidden + 2);  // row 1 in halves
  for (std::size_t i = 0; i < found.size(); ++i) ASSERT_EQ(found[i], i == place ? 0.0F : expected[i]) << i;
  EXPECT_EQ(mended.damage().at(name).n_values, 1);
  EXPECT_THAT(mended.damage().at(name).error, AllOf(HasSubstr("bad.gguf"), HasSubstr("attn_q"), HasSubstr("[1, 2]")));
}

TEST_F(GgufModel, RowsAreThoseOfTheWhole) {
  const auto source = open_model(folder_.write("m.gguf", SmallModel{}.bytes()));
  const std::string name = "model.embed_tokens.weight";
  const std::vector<float> whole = read(*source, name);
  std::vector<float> rows(2 * kHidden);
  ASSERT_TRUE(source->read_rows({name, {std::ssize(whole) / kHidden, kHidden}}, 3, rows));
  EXPECT_TRUE(std::equal(rows.begin(), rows.end(), whole.begin() + 3 * kHidden));
  // Rows that lie in another order are read as a whole.
  EXPECT_FALSE(source->read_rows({"model.layers.1.self_attn.q_proj.weight", {kHeads * kHeadDim, kHidden}}, 0, rows));
}

TEST_F(GgufModel, ReadsRopeScalingFromMetadata) {
  const auto scaled = [&](const std::string& type) {
    return open({.more =
                     [type](GgufWriter& w) {
                       w.text("llama.rope.scaling.type", type)
                           .f32("llama.rope.scaling.factor", 4)
                           .u32("llama.rope.scaling.original_context_length", 128);
                     }})
        ->config()
        .rope;
  };
  EXPECT_EQ(scaled("none").scaling, RopeScaling::none);
  EXPECT_EQ(scaled("linear").scaling, RopeScaling::linear);
  EXPECT_EQ(scaled("linear").factor, 4);
  EXPECT_EQ(scaled("yarn").scaling, RopeScaling::yarn);
  EXPECT_EQ(scaled("yarn").original_max_position, 128);
}

TEST_F(GgufModel, ScalesAsLlamaCppDoesWhereKeysAreAbsentOrOld) {
  const auto scaled = [&](const std::function<void(GgufWriter&)>& more) { return open({.more = more})->config().rope; };
  for (const char* key : {"llama.rope.scaling.factor", "llama.rope.scale_linear"}) {
    const RopeConfig rope = scaled([&](GgufWriter& w) { w.f32(key, 4); });
    EXPECT_EQ(rope.scaling, RopeScaling::linear) << key;
    EXPECT_EQ(rope.factor, 4) << key;
  }
  EXPECT_EQ(
      scaled([](GgufWriter& w) { w.f32("llama.rope.scale_linear", 2).f32("llama.rope.scaling.factor", 4); }).factor, 4);
  EXPECT_EQ(scaled([](GgufWriter& w) { w.f32("llama.rope.scaling.factor", 0); }).scaling, RopeScaling::none);
  EXPECT_EQ(scaled([](GgufWriter& w) { w.text("llama.rope.scaling.type", "linear"); }).scaling, RopeScaling::none);
}

TEST_F(GgufModel, SaysWhichKeysHaveNoEffect) {
  testing::internal::CaptureStderr();
  open({.more = [](GgufWriter& w) { w.f32("llama.attention.scale", 0.25F).u32("general.quantization_version", 2); }});
  const std::string said = testing::internal::GetCapturedStderr();
  EXPECT_THAT(said, AllOf(HasSubstr("llama.attention.scale"), testing::Not(HasSubstr("quantization_version"))));
}

TEST_F(GgufModel, EndsATextWhereTheFileSays) {
  const auto source = open({.more = [](GgufWriter& w) { w.u32("tokenizer.ggml.eos_token_id", 7); }});
  EXPECT_EQ(source->config().end_ids, std::vector<std::int64_t>{7});
}

TEST_F(GgufModel, IsKnownWithoutAnEnding) {
  EXPECT_NE(open_model(folder_.write("blob", SmallModel{}.bytes())), nullptr);
}

TEST_F(GgufModel, RecognisesTheFrequencyDivisorsOfLlama3) {
  // The definition in transformers' modeling_rope_utils (llama3): long wavelengths divided by the factor, a blend
  // between.
  const auto divisors = [](double factor) {
    std::vector<float> out;
    for (int i = 0; i < kHeadDim / 2; ++i) {
      const double wavelength = 2 * std::numbers::pi * std::pow(100000.0, 2.0 * i / kHeadDim);
      if (wavelength < 8192.0 / 4)
        out.push_back(1);
      else if (wavelength > 8192.0 / 1)
        out.push_back(static_cast<float>(factor));
      else {
        const double smooth = (8192.0 / wavelength - 1) / (4 - 1);
        out.push_back(static_cast<float>(1 / ((1 - smooth) / factor + smooth)));
      }
    }
    return out;
  };
  for (const double factor : {8.0, 32.0}) {
    const RopeConfig rope =
        open({.more =
                  [&](GgufWriter& w) {
                    w.tensor("rope_freqs.weight", kF32, {kHeadDim / 2}, test::encode(DType::f32, divisors(factor)));
                  }})
            ->config()
            .rope;
    EXPECT_EQ(rope.scaling, RopeScaling::llama3);
    EXPECT_EQ(rope.factor, factor);
    EXPECT_EQ(rope.low_freq_factor, 1);
    EXPECT_EQ(rope.high_freq_factor, 4);
    EXPECT_EQ(rope.original_max_position, 8192);
  }
  std::vector<float> other = divisors(8);
  other[3] = 2;
  EXPECT_THAT(refusal({.more =
                           [&](GgufWriter& w) {
                             w.tensor("rope_freqs.weight", kF32, {kHeadDim / 2}, test::encode(DType::f32, other));
                           }}),
              HasSubstr("rope_freqs.weight"));
}

TEST_F(GgufModel, RefusesWhatItCannotReadNamingKeyOrTensor) {
  for (const char* arch : {"llama4", "starcoder2", "command-r", "bert"})
    EXPECT_THAT(refusal({.arch = arch}), AllOf(HasSubstr("m.gguf"), HasSubstr(std::string("\"") + arch + "\""),
                                               HasSubstr("llama, mistral3, qwen2, qwen2moe, qwen3, "),
                                               HasSubstr("deepseek2"), HasSubstr("Hugging Face")));
  EXPECT_THAT(refusal({.arch = "qwen2", .more = [](GgufWriter& w) { w.u32("qwen2.expert_count", 8); }}),
              AllOf(HasSubstr("qwen2.expert_count"), HasSubstr("Hugging Face")));
  EXPECT_THAT(refusal({.arch = "qwen3moe"}), AllOf(HasSubstr("qwen3moe.expert_count"), HasSubstr("Hugging Face")));
  EXPECT_THAT(refusal({.more = [](GgufWriter& w) { w.u32("split.count", 3); }}), HasSubstr("split"));
  EXPECT_THAT(refusal({.more = [](GgufWriter& w) { w.u32("llama.rope.dimension_count", 16); }}),
              HasSubstr("llama.rope.dimension_count"));
  EXPECT_THAT(refusal({.more =
                           [](GgufWriter& w) {
                             w.text("llama.rope.scaling.type", "longrope").f32("llama.rope.scaling.factor", 4);
                           }}),
              HasSubstr("longrope"));
  EXPECT_THAT(refusal({.arch = "qwen3"}),
              AllOf(HasSubstr("missing"), HasSubstr("model.layers.0.self_attn.q_norm.weight")));
}

TEST_F(GgufModel, RefusesATypeItCannotDequantize) {
  GgufWriter writer;
  writer.text("general.architecture", "llama")
      .u32("llama.block_count", 1)
      .u32("llama.embedding_length", 256)
      .u32("llama.feed_forward_length", 256);
  writer.u32("llama.attention.head_count", 2).f32("llama.attention.layer_norm_rms_epsilon", 1e-5F);
  writer.tensor("token_embd.weight", 16, {1, 256}, std::string(66, '\0'));
  const std::string path = folder_.write("k.gguf", writer.bytes());
  try {
    open_model(path);
    FAIL();
  } catch (const core::FormatError& error) {
    EXPECT_THAT(error.what(),
                AllOf(HasSubstr("k.gguf"), HasSubstr("token_embd.weight"), HasSubstr("IQ2_XXS"), HasSubstr("Q6_K")));
  }
}

TEST_F(GgufModel, NamesTheMetadataThatIsMissing) {
  EXPECT_THROW(open_model(folder_.write("m.gguf", GgufWriter().bytes())), core::FormatError);
  try {
    open_model(folder_.write("m.gguf", GgufWriter().text("general.architecture", "llama").bytes()));
    FAIL();
  } catch (const core::FormatError& error) {
    EXPECT_THAT(error.what(), AllOf(HasSubstr("m.gguf"), HasSubstr("llama.embedding_length")));
  }
}

// Values and sums from the `gguf` Python package 0.19: dequantized, cast to float16, q and k rows put back to halves.
TEST_F(GgufModel, ReadsSmolLM2AsItsFloat16Export) {
  const char* path = std::getenv("VORONOI_SMOLLM2_GGUF");
  if (path == nullptr) VORONOI_SKIP_MISSING("VORONOI_SMOLLM2_GGUF does not name SmolLM2-135M-Instruct.Q4_1.gguf");
  const auto source = open_model(path);
  const ModelConfig& config = source->config();
  EXPECT_EQ(config.n_layers, 30);
  EXPECT_EQ(config.head_dim, 64);
  EXPECT_EQ(config.vocab_size, 49152);
  EXPECT_TRUE(config.tied_embeddings);
  EXPECT_EQ(config.norm_eps, 1e-5);
  EXPECT_EQ(config.rope.theta, 100000);
  EXPECT_EQ(config.bos_id, 1);
  struct Golden {
    std::string name;
    std::vector<std::pair<std::size_t, float>> values;
    double sum, weighted;
  };
  const std::vector<Golden> goldens{
      {"model.layers.3.self_attn.q_proj.weight",
       {{0, 0.077880859375F},
        {1, 0.15283203125F},
        {110592, -0.1434326171875F},
        {165895, -0.46630859375F},
        {331775, 0.306640625F}},
       -96.36090850830078,
       -54384.48240661621},
      {"model.layers.3.self_attn.k_proj.weight",
       {{0, 0.1629638671875F}, {36864, -0.103759765625F}, {55303, -0.0245361328125F}, {110591, -0.5703125F}},
       -52.82164001464844,
       16977.241775512695},
      {"model.embed_tokens.weight",
       {{0, -0.1065673828125F}, {1, 0.032989501953125F}, {9437184, 0.071044921875F}, {28311551, -0.04168701171875F}},
       -15353.312954902649,
       -7804918.643705845},
      {"model.layers.29.post_attention_layernorm.weight",
       {{0, 0.326171875F}, {1, 0.3125F}, {575, 0.3359375F}},
       196.283203125,
       56369.2265625},
      {"model.layers.29.mlp.down_proj.weight",
       {{0, -0.2734375F}, {294912, 0.230712890625F}, {442375, -0.0155029296875F}, {884735, 0.056640625F}},
       49.805877685546875,
       -61599.57095336914}};
  for (const Golden& golden : goldens) {
    const std::vector<float> found = read(*source, golden.name);
    double sum = 0, weighted = 0;
    for (std::size_t i = 0; i < found.size(); ++i) {
      sum += static_cast<double>(found[i]);
      weighted += static_cast<double>(found[i]) * static_cast<double>(i % 1009);
    }
    for (const auto& [place, value] : golden.values) EXPECT_EQ(found[place], value) << golden.name << " " << place;
    EXPECT_NEAR(sum, golden.sum, 1e-6) << golden.name;
    EXPECT_NEAR(weighted, golden.weighted, 1e-4) << golden.name;
  }
}

TEST_F(GgufModel, MetadataBecomesAConfigThatReadsBackTheSame) {
  for (const std::string arch : {"llama", "qwen3"})
    for (const bool head : {false, true}) {
      SmallModel model;
      model.arch = arch;
      model.head = head;
      model.qk_norm = arch == "qwen3";
      model.more = [](GgufWriter& writer) { writer.u32("tokenizer.ggml.eos_token_id", 7); };
      const auto source = open(model);
      const core::Json json = gguf_config_json(source->path());
      EXPECT_EQ(json.at("architectures"),
                core::Json::array({arch == "llama" ? "LlamaForCausalLM" : "Qwen3ForCausalLM"}));
      EXPECT_EQ(json.at("eos_token_id"), 7);
      const ModelConfig parsed = parse_config(json, "config.json"), &config = source->config();
      EXPECT_EQ(parsed.model_type, arch);
      EXPECT_EQ(parsed.head_dim, config.head_dim);
      EXPECT_EQ(parsed.max_position, config.max_position);
      EXPECT_EQ(parsed.tied_embeddings, !head);
      EXPECT_EQ(parsed.rope.theta, config.rope.theta);
      EXPECT_EQ(parsed.norm_eps, config.norm_eps);
      EXPECT_EQ(parsed.bos_id, config.bos_id);
      const auto expected = expected_tensors(config), found = expected_tensors(parsed);
      ASSERT_EQ(found.size(), expected.size());
      for (std::size_t i = 0; i < found.size(); ++i) EXPECT_EQ(found[i].shape, expected[i].shape) << found[i].name;
    }
}

}  // namespace
}  // namespace voronoi::model
