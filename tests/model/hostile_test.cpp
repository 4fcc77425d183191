// Damaged and malicious files: tests/data beside the project has one small file a case and says what each must get.
#include <gmock/gmock.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <functional>
#include <map>
#include <new>
#include <string>
#include <vector>

#include "core/error.h"
#include "core/json.h"
#include "model/gguf.h"
#include "model/model_files.h"
#include "model/safetensors.h"
#include "model/weight_data.h"
#include "model/weights.h"
#include "support/data.h"

namespace voronoi::model {
namespace {

using testing::HasSubstr;

const std::string kFolder = "models/hostile/";

/// What must stand in the message beside the file's name, where the case's description asks for more.
const std::map<std::string, std::vector<std::string>> kWords{
    {"safetensors/header-length-beyond-file.safetensors", {"100000", "152"}},
    {"safetensors/header-length-max.safetensors", {"18446744073709551615"}},
    {"safetensors/overlapping-offsets.safetensors", {"tensor \"b\"", "16", "24"}},
    {"safetensors/offsets-reversed.safetensors", {"tensor \"b\"", "[40,24]"}},
    {"safetensors/offsets-not-dtype-shape.safetensors", {"tensor \"a\"", "32 bytes", "24"}},
    {"safetensors/shape-product-wraps-right.safetensors", {"tensor \"a\"", "too large"}},
    {"safetensors/duplicate-names.safetensors", {"\"a\"", "twice"}},
    {"safetensors/dtype-unknown.safetensors", {"tensor \"a\"", "F128"}},
    {"safetensors/dtype-lower-case.safetensors", {"tensor \"a\"", "f32"}},
    {"safetensors/missing-shape.safetensors", {"tensor \"a\"", "\"shape\""}},
    {"safetensors/header-deep-closed.safetensors", {"deeper"}},
    {"safetensors/truncated-data.safetensors", {"tensor \"b\"", "byte 40", "37 bytes"}},
    {"config/missing-hidden-size", {"config.json", "hidden_size"}},
    {"config/missing-layers", {"config.json", "num_hidden_layers"}},
    {"config/only-model-type",
     {"hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "vocab_size"}},
    {"config/unknown-architecture", {"frobnicator", "llama, mistral, qwen2, qwen3"}},
    {"config/huge-layers", {"num_hidden_layers", "1000000000000"}},
    {"config/hidden-2p64", {"hidden_size"}},
    {"config/huge-experts", {"num_local_experts", "1000000000"}},
    {"config/top-k-above-experts", {"num_experts_per_tok", "5"}},
    {"config/string-hidden", {"hidden_size", "string \"4\"", "integer"}},
    {"config/rope-scaling-unknown", {"rope_scaling", "spiral"}},
    {"config/hidden-act-unknown", {"swoosh"}},
    {"config/weights-other-shape", {"model.safetensors", "model.layers.0.mlp.gate_proj.weight", "[6, 4]", "[7, 4]"}},
    {"config/one-layer-too-many", {"model.safetensors", "model.layers.1.input_layernorm.weight"}},
    {"config/untied-without-head", {"model.safetensors", "lm_head.weight"}},
    {"weights/nan", {"model.safetensors", "model.layers.0.mlp.up_proj.weight", "[1, 1]", "nan"}},
    {"weights/inf", {"model.safetensors", "model.layers.0.self_attn.q_proj.weight", "[0, 3]", "inf"}},
    {"weights/neg-inf-norm", {"model.safetensors", "model.layers.0.input_layernorm.weight", "[0]", "-inf"}},
    {"weights/huge-finite", {"model.safetensors", "model.layers.0.mlp.down_proj.weight", "[1, 1]", "e+38", "65504"}},
    {"index/traversal-relative", {"model.safetensors.index.json", "model.norm.weight", "../../etc/passwd"}},
    {"index/traversal-absolute", {"model.norm.weight", "/etc/passwd"}},
    {"index/traversal-to-real-shard", {"model.norm.weight", "../ok/model-00002-of-00002.safetensors"}},
    {"index/name-with-nul", {"\\x00.txt"}},
    {"index/name-not-safetensors", {"pytorch_model.bin", "pickles are never read", "convert"}},
    {"index/missing-shard", {"model-00002-of-00002.safetensors is not in the folder"}},
    {"index/tensor-not-in-shard", {"model.norm.weight", "model-00001-of-00002.safetensors"}},
    {"index/tensor-nowhere", {"model.layers.0.self_attn.q_proj.bias", "model-0000"}},
    {"index/empty-weight-map", {"model.embed_tokens.weight"}},
    {"gguf/version-99.gguf", {"version 99"}},
    {"gguf/version-1.gguf", {"version 1"}},
    {"gguf/big-endian.gguf", {"big-endian"}},
    {"gguf/unknown-tensor-type.gguf", {"token_embd.weight", "999"}},
    {"gguf/removed-tensor-type.gguf", {"token_embd.weight", "type 4"}},
    {"gguf/offset-out-of-range.gguf", {"output_norm.weight"}},
    {"gguf/truncated-data.gguf", {"output_norm.weight"}},
    {"gguf/duplicate-key.gguf", {"llama.block_count", "twice"}},
};

struct Answer {
  bool opened = false, read = false;
  std::string message;  ///< of a FormatError or StoreError
  std::string mishap;   ///< any other exception
};

void read_everything(const std::string& path, bool& opened) {
  std::vector<float> values;
  const auto buffer = [&](const core::Shape& shape) {
    values.assign(static_cast<std::size_t>(core::element_count(shape).value()), 0.0F);
    return std::span(values);
  };
  if (path.ends_with(".safetensors")) {
    const SafetensorsFile file(path);
    opened = true;
    for (const auto& [name, tensor] : file.tensors())
      if (tensor.dtype == core::DType::f32) convert_finite(*tensor.dtype, tensor.bytes.data(), buffer(tensor.shape));
  } else if (path.ends_with(".gguf")) {
    const GgufFile file(path);
    opened = true;
    for (const GgufTensor& tensor : file.tensors()) dequantize(tensor.type, tensor.bytes, buffer(tensor.shape));
  } else {
    const auto source = open_model(path);
    opened = true;
    source->fingerprint();
    for (const TensorSpec& spec : expected_tensors(source->config())) source->read(spec, buffer(spec.shape));
  }
}

Answer answer_of(const std::string& path) {
  Answer answer;
  try {
    read_everything(path, answer.opened);
    answer.read = true;
  } catch (const core::FormatError& error) {
    answer.message = error.what();
  } catch (const core::StoreError& error) {
    answer.message = error.what();
  } catch (const std::exception& error) {
    answer.mishap = error.what();
  }
  return answer;
}

core::Json all_cases() { return core::read_json_file(test::data_path(kFolder + "expected.json")); }

TEST(Hostile, EveryCaseGetsTheAnswerItsDescriptionAsksFor) {
  VORONOI_NEEDS_DATA("models/hostile/expected.json");
  std::map<std::string, int> seen;
  std::size_t n_words = 0;
  for (const core::Json& entry : all_cases()) {
    const std::string name = entry["path"], expected = entry["expect"], path = test::data_path(kFolder + name);
    SCOPED_TRACE(name + ": " + entry["what"].get<std::string>());
    const Answer answer = answer_of(path);
    ++seen[expected];
    EXPECT_EQ(answer.mishap, "");
    if (expected == "accept") {
      EXPECT_TRUE(answer.read) << answer.message;
    }
    if (expected == "refuse") {
      EXPECT_FALSE(answer.opened);
    }
    if (expected == "report") {
      EXPECT_TRUE(answer.opened && !answer.read) << answer.message;
    }
    if (answer.read) continue;
    EXPECT_THAT(answer.message, HasSubstr(path));
    EXPECT_EQ(answer.message.find("root:"), std::string::npos);
    EXPECT_LT(answer.message.size(), 1500U);
    if (const auto words = kWords.find(name); words != kWords.end()) {
      ++n_words;
      for (const std::string& word : words->second) EXPECT_THAT(answer.message, HasSubstr(word));
    }
  }
  EXPECT_EQ(seen["accept"] + seen["refuse"] + seen["either"] + seen["report"], 160);
  EXPECT_EQ(n_words, kWords.size());
}

/// Bytes of address space in use.
rlim_t address_space() {
  rlim_t pages = 0;
  std::ifstream("/proc/self/statm") >> pages;
  return pages * static_cast<rlim_t>(::sysconf(_SC_PAGESIZE));
}

TEST(Hostile, NoCaseNeedsMuchMemory) {
#if defined(__has_feature)
#if __has_feature(address_sanitizer)
  return;  // the address sanitizer ends the process where memory runs out
#endif
#endif
  VORONOI_NEEDS_DATA("models/hostile/expected.json");
  std::vector<std::string> paths;
  for (const core::Json& entry : all_cases())
    paths.push_back(test::data_path(kFolder + entry["path"].get<std::string>()));
  const pid_t child = ::fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    constexpr rlim_t kSpare = rlim_t{64} << 20;
    const rlimit limit{address_space() + kSpare, RLIM_INFINITY};
    if (::setrlimit(RLIMIT_AS, &limit) != 0) ::_exit(99);
    // The limit must bite, or this test could not fail.
    try {
      const std::vector<char> large(2 * kSpare);
      ::_exit(98);
    } catch (const std::bad_alloc&) {
    }
    for (const std::string& path : paths)
      if (!answer_of(path).mishap.empty()) ::_exit(1);
    ::_exit(0);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  ASSERT_TRUE(WIFEXITED(status));
  EXPECT_EQ(WEXITSTATUS(status), 0);
}

TEST(Hostile, ControlsReadWithTheRightValues) {
  VORONOI_NEEDS_DATA("models/hostile/expected.json");
  for (const char* name : {"ok", "ok-metadata-padding", "ok-order"}) {
    const SafetensorsFile file(test::data_path(kFolder + "safetensors/" + name + ".safetensors"));
    const SafetensorsTensor *a = file.find("a"), *b = file.find("b");
    ASSERT_TRUE(a != nullptr && b != nullptr) << name;
    std::vector<float> values(10);
    convert_finite(*a->dtype, a->bytes.data(), std::span(values).first(6));
    convert_finite(*b->dtype, b->bytes.data(), std::span(values).last(4));
    EXPECT_THAT(values, testing::ElementsAre(0, 1, 2, 3, 4, 5, 6, 7, 8, 9)) << name;
    EXPECT_EQ(a->shape, (core::Shape{2, 3}));
  }
  const SafetensorsFile scalar(test::data_path(kFolder + "safetensors/ok-scalar-and-empty.safetensors"));
  EXPECT_EQ(scalar.find("s")->shape, core::Shape{});
  EXPECT_EQ(scalar.find("s")->bytes.size(), 4U);
  EXPECT_TRUE(scalar.find("e")->bytes.empty());
  for (const char* name : {"ok", "ok-align-64"}) {
    const GgufFile file(test::data_path(kFolder + "gguf/" + name + ".gguf"));
    const GgufTensor *embedding = file.find_tensor("token_embd.weight"), *norm = file.find_tensor("output_norm.weight");
    ASSERT_TRUE(embedding != nullptr && norm != nullptr) << name;
    EXPECT_EQ(embedding->shape, (core::Shape{8, 4}));
    std::vector<float> values(36);
    dequantize(embedding->type, embedding->bytes, std::span(values).first(32));
    dequantize(norm->type, norm->bytes, std::span(values).last(4));
    for (std::size_t i = 0; i < values.size(); ++i) EXPECT_EQ(values[i], static_cast<float>(i)) << name;
  }
  const GgufFile q8(test::data_path(kFolder + "gguf/ok-q8_0.gguf"));
  std::vector<float> values(64);
  dequantize(q8.tensors().front().type, q8.tensors().front().bytes, values);
  for (int i = 0; i < 32; ++i) {
    EXPECT_EQ(values[static_cast<std::size_t>(i)], 0.5F * static_cast<float>(i - 16));
    EXPECT_EQ(values[static_cast<std::size_t>(32 + i)], -0.25F * static_cast<float>(i - 16));
  }
}

TEST(Hostile, ShardedAndWholeFilesOfAModelReadAlike) {
  VORONOI_NEEDS_DATA("models/hostile/expected.json");
  const auto whole = open_model(test::data_path(kFolder + "config/ok")),
             sharded = open_model(test::data_path(kFolder + "index/ok"));
  EXPECT_NE(whole->fingerprint(), sharded->fingerprint());
  double sum = 0;
  for (const TensorSpec& spec : expected_tensors(whole->config())) {
    const auto n = static_cast<std::size_t>(core::element_count(spec.shape).value());
    std::vector<float> a(n), b(n);
    whole->read(spec, a);
    sharded->read(spec, b);
    EXPECT_EQ(a, b) << spec.name;
    for (const float value : a) sum += static_cast<double>(value * value);
  }
  EXPECT_GT(sum, 1);
}

TEST(Hostile, AMillionBracketsAreRefusedInEveryJsonFile) {
  const test::TemporaryFolder folder;
  const std::string open(1'000'000, '['), closed = open + std::string(1'000'000, ']');
  for (const std::string& brackets : {open, closed}) {
    EXPECT_THAT(
        answer_of(folder.write("m.safetensors", test::safetensors_bytes("{\"a\":" + brackets + "}", ""))).message,
        HasSubstr("deeper"));
    folder.write("config.json", "{\"a\":" + brackets + "}");
    EXPECT_THAT(answer_of(folder.path()).message, HasSubstr("deeper"));
  }
  // GGUF: arrays of arrays of ..., each a type and a count of one.
  std::string nested;
  for (int i = 0; i < 1'000'000; ++i) nested += test::bytes_of(std::uint32_t{9}) + test::bytes_of(std::uint64_t{1});
  EXPECT_THAT(answer_of(folder.write("m.gguf", test::GgufWriter().entry("x", 9, nested).bytes())).message,
              HasSubstr("array of arrays"));
}

}  // namespace
}  // namespace voronoi::model
