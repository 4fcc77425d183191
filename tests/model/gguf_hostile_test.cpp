// Malformed GGUF files of the kinds that only newer types and architectures have: each is refused with the file, the
// tensor or key, and a remedy where there is one.
#include <gmock/gmock.h>

#include <functional>
#include <string>
#include <vector>

#include "core/error.h"
#include "model/gguf.h"
#include "model/model_files.h"
#include "model/weights.h"

namespace voronoi::model {
namespace {

using test::GgufWriter;
using testing::AllOf;
using testing::HasSubstr;

class GgufHostile : public testing::Test {
 protected:
  std::string answer(const std::string& bytes) {
    try {
      const auto source = open_model(folder_.write("m.gguf", bytes));
      for (const TensorSpec& spec : expected_tensors(source->config())) {
        std::vector<float> values(static_cast<std::size_t>(core::element_count(spec.shape).value()));
        source->read(spec, values);
      }
    } catch (const core::FormatError& error) {
      return error.what();
    }
    return "accepted";
  }
  test::TemporaryFolder folder_;
};

constexpr std::int64_t kWide = 256, kHeadsOfSmall = 4;

void add_floats(GgufWriter& writer, const std::string& name, const core::Shape& shape) {
  writer.tensor(name, 0, shape, std::string(static_cast<std::size_t>(4 * core::element_count(shape).value()), '\0'));
}

/// One layer; `experts` tensors may be made wrong by a test.
struct SmallMixture {
  std::string arch = "qwen3moe";
  std::int64_t n_experts = 2, n_stored = 2, n_used = 1, inner = 256;
  std::uint32_t type = 12;                    ///< Q4_K, whose blocks of 256 take 144 bytes
  std::int64_t row_bytes = 144, row = kWide;  ///< of a row of the experts' gate
  std::function<void(GgufWriter&)> more = [](GgufWriter&) {};

  std::string bytes() const {
    GgufWriter writer;
    const auto u32 = [&](const char* key, std::int64_t value) {
      writer.u32(arch + "." + key, static_cast<std::uint32_t>(value));
    };
    writer.text("general.architecture", arch).f32(arch + ".attention.layer_norm_rms_epsilon", 1e-6F);
    u32("block_count", 1);
    u32("embedding_length", kWide);
    u32("feed_forward_length", inner);
    u32("attention.head_count", kHeadsOfSmall);
    u32("expert_count", n_experts);
    u32("expert_used_count", n_used);
    u32("expert_feed_forward_length", inner);
    add_floats(writer, "token_embd.weight", {3, kWide});
    add_floats(writer, "output_norm.weight", {kWide});
    for (const char* norm : {"attn_norm", "ffn_norm"})
      add_floats(writer, std::string("blk.0.") + norm + ".weight", {kWide});
    for (const char* norm : {"attn_q_norm", "attn_k_norm"})
      add_floats(writer, std::string("blk.0.") + norm + ".weight", {kWide / kHeadsOfSmall});
    for (const char* linear : {"attn_q", "attn_k", "attn_v", "attn_output"})
      add_floats(writer, std::string("blk.0.") + linear + ".weight", {kWide, kWide});
    add_floats(writer, "blk.0.ffn_gate_inp.weight", {n_experts, kWide});
    writer.tensor("blk.0.ffn_gate_exps.weight", type, {n_stored, inner, row},
                  std::string(static_cast<std::size_t>(n_stored * inner * row_bytes), '\0'));
    add_floats(writer, "blk.0.ffn_up_exps.weight", {n_experts, inner, kWide});
    add_floats(writer, "blk.0.ffn_down_exps.weight", {n_experts, kWide, inner});
    more(writer);
    return writer.bytes();
  }
};

TEST_F(GgufHostile, ExpertsThatAreNotAsManyAsTheKeySaysAreRefused) {
  EXPECT_EQ(answer(SmallMixture{}.bytes()), "accepted");
  for (const std::int64_t stored : {1, 3})
    EXPECT_THAT(answer(SmallMixture{.n_stored = stored}.bytes()),
                AllOf(HasSubstr("m.gguf"), HasSubstr("tensor blk.0.ffn_gate_exps.weight"), HasSubstr("the 2 experts")));
  EXPECT_THAT(answer(SmallMixture{.n_used = 3}.bytes()), HasSubstr("num_experts_per_tok"));
}

TEST_F(GgufHostile, RowsThatAreNoWholeBlocksAreRefusedWithTheRemedy) {
  for (const std::int64_t row : {std::int64_t{255}, std::int64_t{288}, std::int64_t{128}})
    EXPECT_THAT(answer(SmallMixture{.row = row}.bytes()),
                AllOf(HasSubstr("m.gguf"), HasSubstr("blk.0.ffn_gate_exps.weight"),
                      HasSubstr("no whole blocks of Q4_K"), HasSubstr("256"), HasSubstr("get it again")));
}

TEST_F(GgufHostile, TruncatedBlocksAreRefusedWithTheRemedy) {
  for (const auto& [type, bytes] : {std::pair{10U, 84},
                                    {11U, 110},
                                    {12U, 144},
                                    {13U, 176},
                                    {14U, 210},
                                    {15U, 292},
                                    {20U, 144},
                                    {23U, 136},
                                    {39U, 136}}) {
    GgufWriter writer;
    writer.tensor("t", type, {1, 256}, std::string(static_cast<std::size_t>(bytes), '\x7F'));
    std::string file = writer.bytes();
    const GgufFile whole(folder_.write("whole.gguf", file));
    EXPECT_EQ(whole.find_tensor("t")->bytes.size(), static_cast<std::size_t>(bytes));
    const std::size_t data = file.size() - (static_cast<std::size_t>(bytes) + 31) / 32 * 32;
    for (const std::size_t left : {std::size_t{0}, std::size_t{1}, static_cast<std::size_t>(bytes) - 1}) {
      try {
        const GgufFile cut(folder_.write("cut.gguf", file.substr(0, data + left)));
        ADD_FAILURE() << ggml_type_name(static_cast<GgmlType>(type)) << " with " << left << " bytes";
      } catch (const core::FormatError& error) {
        EXPECT_THAT(error.what(), AllOf(HasSubstr("cut.gguf"), HasSubstr("tensor \"t\""), HasSubstr("truncated"),
                                        HasSubstr("get the file again")));
      }
    }
  }
}

TEST_F(GgufHostile, ScalesThatAreNoNumbersAreFoundInTheirExpert) {
  std::string file = SmallMixture{}.bytes();
  // d of a block in the second expert, in row 5 of its gate: the first tensor of zeros behind a name is not unique, the
  // place is counted from the end of the file, where up and down follow.
  const std::size_t behind = 2 * 4 * 256 * 256 * 2, gate = 2 * 256 * 144;
  const std::size_t start = file.size() - behind - gate;
  file.replace(start + (256 + 5) * 144, 2, test::bytes_of(std::uint16_t{0x7C00}));
  EXPECT_THAT(answer(file),
              AllOf(HasSubstr("model.layers.0.mlp.experts.1.gate_proj.weight (blk.0.ffn_gate_exps.weight)"),
                    HasSubstr("[5, 0]")));
}

TEST_F(GgufHostile, KeysThatAskForWhatIsNotComputedAreRefusedByName) {
  const auto with = [](const std::string& arch, const std::function<void(GgufWriter&)>& more) {
    return SmallMixture{.arch = arch, .more = more}.bytes();
  };
  EXPECT_THAT(answer(with("deepseek2",
                          [](GgufWriter& w) {
                            w.u32("deepseek2.attention.kv_lora_rank", 8)
                                .u32("deepseek2.attention.key_length", 12)
                                .u32("deepseek2.attention.value_length", 8)
                                .u32("deepseek2.rope.dimension_count", 4);
                          })),
              AllOf(HasSubstr("deepseek2.expert_gating_func"), HasSubstr("DeepSeek-V2")));
  EXPECT_THAT(answer(with("deepseek2",
                          [](GgufWriter& w) {
                            w.u32("deepseek2.attention.kv_lora_rank", 8)
                                .u32("deepseek2.attention.key_length", 4)
                                .u32("deepseek2.attention.value_length", 8)
                                .u32("deepseek2.rope.dimension_count", 4);
                          })),
              HasSubstr("deepseek2.rope.dimension_count"));
  EXPECT_THAT(answer(with("gpt-oss", [](GgufWriter&) {})), HasSubstr("gpt-oss.attention.sliding_window"));
  EXPECT_THAT(
      answer(with("gpt-oss",
                  [](GgufWriter& w) {
                    w.u32("gpt-oss.attention.sliding_window", 8).u32("gpt-oss.attention.sliding_window_pattern", 0);
                  })),
      HasSubstr("gpt-oss.attention.sliding_window_pattern"));
  EXPECT_THAT(answer(with("qwen3moe", [](GgufWriter& w) { w.u32("qwen3moe.nextn_predict_layers", 5); })),
              HasSubstr("qwen3moe.nextn_predict_layers"));
  EXPECT_THAT(answer(with("qwen3moe", [](GgufWriter& w) { w.u32("qwen3moe.attention.sliding_window", 5); })),
              HasSubstr("qwen3moe.attention.sliding_window"));
}

}  // namespace
}  // namespace voronoi::model
