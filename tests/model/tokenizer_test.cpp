#include "model/tokenizer.h"

#include <gtest/gtest.h>
#include <sentencepiece_processor.h>

#include <cstdlib>
#include <sstream>

#include "core/file.h"
#include "core/json.h"
#include "model/corpus.h"
#include "model/model_files.h"
#include "model/tokenizer_writer.h"
#include "support/data.h"

namespace voronoi::model {
namespace {

using test::data_path;
using Ids = std::vector<std::int32_t>;

struct Golden {
  std::string text;
  Ids ids;
};

/// The strings of NAME.inp and their ids, a line each, of NAME.out.
std::vector<Golden> ggml_goldens(const std::string& name) {
  const std::string mark = "\n__ggml_vocab_test__\n";
  const std::string base = data_path("tokenizers/ggml-vocab/ggml-vocab-" + name + ".gguf");
  std::string text = core::read_text_file(base + ".inp");
  std::istringstream lines(core::read_text_file(base + ".out"));
  std::vector<Golden> goldens;
  for (std::size_t at = 0; at != std::string::npos;) {
    const std::size_t end = text.find(mark, at);
    Golden golden{text.substr(at, end == std::string::npos ? end : end - at), {}};
    at = end == std::string::npos ? end : end + mark.size();
    std::string line;
    std::getline(lines, line);
    std::istringstream numbers(line);
    for (std::int32_t id; numbers >> id;) golden.ids.push_back(id);
    goldens.push_back(std::move(golden));
  }
  // The file ends with a line feed that belongs to no string.
  if (goldens.back().text.ends_with('\n')) goldens.back().text.pop_back();
  return goldens;
}

void expect_goldens(const Tokenizer& tokenizer, const std::vector<Golden>& goldens, std::size_t count,
                    bool round_trip) {
  ASSERT_EQ(goldens.size(), count);
  for (const Golden& golden : goldens) {
    EXPECT_EQ(tokenizer.encode(golden.text), golden.ids) << golden.text;
    if (round_trip) {
      EXPECT_EQ(tokenizer.decode(golden.ids), golden.text);
    }
  }
}

std::string wikitext() { return load_text(data_path("wikitext2/wiki.test.raw"), Join::wikitext).content; }

TEST(Tokenizer, Llama2SentencepieceGivesTheGoldenIds) {
  VORONOI_NEEDS_DATA("tokenizers/llama2/tokenizer.model");
  VORONOI_NEEDS_DATA("wikitext2/wiki.test.raw");
  const auto tokenizer = open_tokenizer(data_path("tokenizers/llama2"));
  expect_goldens(*tokenizer, ggml_goldens("llama-spm"), 47, true);
  EXPECT_EQ(tokenizer->vocab_size(), 32000);
  EXPECT_EQ(tokenizer->automatic_bos(), 1);
  EXPECT_EQ(tokenizer->encode(wikitext()).size(), 341468U);
}

TEST(Tokenizer, Llama3JsonGivesTheGoldenIds) {
  VORONOI_NEEDS_DATA("tokenizers/llama3/tokenizer.json");
  VORONOI_NEEDS_DATA("wikitext2/wiki.test.raw");
  const auto tokenizer = open_tokenizer(data_path("tokenizers/llama3"));
  expect_goldens(*tokenizer, ggml_goldens("llama-bpe"), 47, true);
  EXPECT_EQ(tokenizer->vocab_size(), 128256);
  EXPECT_EQ(tokenizer->bos_id(), 128000);
  EXPECT_EQ(tokenizer->automatic_bos(), std::nullopt) << "its post-processor adds none";
  EXPECT_EQ(tokenizer->encode("<|begin_of_text|>Hello world"), (Ids{128000, 9906, 1917}));
  const std::string text = wikitext();
  const Ids ids = tokenizer->encode(text);
  EXPECT_EQ(ids.size(), 289076U);
  EXPECT_EQ(tokenizer->decode(ids), text);
}

TEST(Tokenizer, Qwen3JsonGivesTheGoldenIds) {
  VORONOI_NEEDS_DATA("tokenizers/qwen3/tokenizer.json");
  VORONOI_NEEDS_DATA("wikitext2/wiki.test.raw");
  const auto tokenizer = open_tokenizer(data_path("tokenizers/qwen3/tokenizer.json"));
  expect_goldens(*tokenizer, ggml_goldens("qwen2"), 47, true);
  EXPECT_EQ(tokenizer->vocab_size(), 151669);
  EXPECT_EQ(tokenizer->automatic_bos(), std::nullopt);
  EXPECT_EQ(tokenizer->encode("a<think>b<|im_end|>"), (Ids{64, 151667, 65, 151645}));
  EXPECT_EQ(tokenizer->encode("e\xCC\x81"), tokenizer->encode("\xC3\xA9")) << "NFC composes";
  EXPECT_EQ(tokenizer->encode(wikitext()).size(), 299078U);
}

TEST(Tokenizer, Gpt2FilesGiveTheGoldenIds) {
  VORONOI_NEEDS_DATA("tokenizers/gpt2/vocab.json");
  VORONOI_NEEDS_DATA("wikitext2/wiki.test.raw");
  const auto tokenizer = open_tokenizer(data_path("tokenizers/gpt2"));
  expect_goldens(*tokenizer, ggml_goldens("gpt-2"), 47, true);
  EXPECT_EQ(tokenizer->vocab_size(), 50257);
  const std::string text = wikitext();
  const Ids ids = tokenizer->encode(text);
  EXPECT_EQ(ids.size(), 287644U);
  EXPECT_EQ(tokenizer->decode(ids), text);
}

TEST(Tokenizer, GgufVocabulariesGiveTheGoldenIds) {
  for (const std::string name : {"gpt-2", "llama-spm", "phi-3"}) {
    VORONOI_NEEDS_DATA("tokenizers/ggml-vocab/ggml-vocab-" + name + ".gguf");
    VORONOI_NEEDS_DATA("wikitext2/wiki.test.raw");
    const auto tokenizer = open_tokenizer(data_path("tokenizers/ggml-vocab/ggml-vocab-" + name + ".gguf"));
    expect_goldens(*tokenizer, ggml_goldens(name), 47, true);
    EXPECT_EQ(tokenizer->automatic_bos(), name == "gpt-2" ? std::nullopt : std::optional<std::int32_t>(1)) << name;
    if (name == "llama-spm") {
      EXPECT_EQ(tokenizer->encode(core::read_text_file(data_path("wikitext2/wiki.test.raw"))).size(), 335687U);
    }
  }
}

TEST(Tokenizer, SentencepieceFromGgufEqualsTheLibraryOnWholeFiles) {
  VORONOI_NEEDS_DATA("tokenizers/ggml-vocab/ggml-vocab-llama-spm.gguf");
  VORONOI_NEEDS_DATA("calibration/code.utf8");
  const auto ours = open_tokenizer(data_path("tokenizers/ggml-vocab/ggml-vocab-llama-spm.gguf"));
  const auto library = open_tokenizer(data_path("tokenizers/llama2/tokenizer.model"));
  // The start of the text, of the code, and of the code without its spaces, which is one word.
  std::string code = core::read_text_file(data_path("calibration/code.utf8")).substr(0, 200000);
  std::string word = code;
  std::erase(word, ' ');
  for (const std::string& text : {wikitext().substr(0, 200000), code, word})
    EXPECT_TRUE(ours->encode(text) == library->encode(text));
}

TEST(Tokenizer, SentencepieceInPartsGivesTheIdsOfTheWhole) {
  std::string text;
  for (const std::string name : {"wiki", "code", "technical"}) {
    VORONOI_NEEDS_DATA("calibration/" + name + ".utf8");
    text += core::read_text_file(data_path("calibration/" + name + ".utf8")).substr(0, 50000);
  }
  text += std::string(3000, ' ') + "one  two   three " + " \xE2\x96\x81 \xE2\x96\x81";
  for (const std::string model : {"tokenizers/llama2/tokenizer.model", "models/stories260K/tok512.model"}) {
    VORONOI_NEEDS_DATA(model);
    sentencepiece::SentencePieceProcessor library;
    ASSERT_TRUE(library.Load(data_path(model)).ok());
    const auto tokenizer = open_tokenizer(data_path(model));
    for (const std::string& end : {std::string(" "), std::string("\n end")}) {
      std::vector<int> whole;
      ASSERT_TRUE(library.Encode(text + end, &whole).ok());
      EXPECT_TRUE(tokenizer->encode(text + end) == whole) << model;
    }
  }
}

/// The folder that an export of a GGUF model has, as far as the tokenizer goes.
void write_tokenizer_files(const std::string& gguf, const test::TemporaryFolder& folder) {
  const auto files = gguf_tokenizer_files(gguf);
  EXPECT_EQ(files.size(), 2U);
  for (const auto& [name, content] : files) folder.write(name, content);
}

TEST(Tokenizer, GgufVocabulariesAsHuggingFaceFilesGiveTheSameIds) {
  for (const std::string name : {"gpt-2", "llama-spm", "phi-3"}) {
    const std::string gguf = data_path("tokenizers/ggml-vocab/ggml-vocab-" + name + ".gguf");
    VORONOI_NEEDS_DATA("tokenizers/ggml-vocab/ggml-vocab-" + name + ".gguf");
    VORONOI_NEEDS_DATA("wikitext2/wiki.test.raw");
    const test::TemporaryFolder folder;
    write_tokenizer_files(gguf, folder);
    const auto original = open_tokenizer(gguf), written = open_tokenizer(folder.path());
    expect_goldens(*written, ggml_goldens(name), 47, true);
    EXPECT_EQ(written->vocab_size(), original->vocab_size()) << name;
    EXPECT_EQ(written->bos_id(), original->bos_id()) << name;
    EXPECT_EQ(written->automatic_bos(), original->automatic_bos()) << name;
    const std::string text = wikitext().substr(0, 300000);
    EXPECT_TRUE(written->encode(text) == original->encode(text)) << name;
    EXPECT_EQ(written->decode(written->encode(text)), text) << name;
  }
}

TEST(Tokenizer, Tok512CountsTheWikitextIds) {
  VORONOI_NEEDS_DATA("models/stories260K/tok512.model");
  VORONOI_NEEDS_DATA("wikitext2/wiki.test.raw");
  const auto tokenizer = open_tokenizer(data_path("models/stories260K/tok512.model"));
  EXPECT_EQ(tokenizer->vocab_size(), 512);
  EXPECT_EQ(tokenizer->encode(wikitext()).size(), 815065U);
}

TEST(Tokenizer, Smollm2GgufGivesTheGoldenIds) {
  VORONOI_NEEDS_DATA("models/smollm2/golden.json");
  const char* path = std::getenv("VORONOI_SMOLLM2_GGUF");
  if (path == nullptr) VORONOI_SKIP_MISSING("VORONOI_SMOLLM2_GGUF does not name SmolLM2-135M-Instruct.Q4_1.gguf");
  const auto tokenizer = open_tokenizer(path);
  const core::Json golden = core::read_json_file(data_path("models/smollm2/golden.json"));
  std::vector<Golden> goldens;
  for (const auto& one : golden["tokenizer"]) goldens.push_back({one["text"], one["ids"].get<Ids>()});
  expect_goldens(*tokenizer, goldens, 51, false);
  EXPECT_EQ(tokenizer->vocab_size(), 49152);
  EXPECT_EQ(tokenizer->bos_id(), 1);
  EXPECT_EQ(tokenizer->automatic_bos(), std::nullopt);
  const std::string text = wikitext();
  const Ids ids = tokenizer->encode(text);
  EXPECT_EQ(ids.size(), golden["wikitext2_test_joined_tokens"].get<std::size_t>());
  EXPECT_TRUE(std::equal(golden["first_64_ids"].begin(), golden["first_64_ids"].end(), ids.begin()));
  EXPECT_EQ(tokenizer->decode(ids), text);
}

TEST(Tokenizer, InvalidUtf8IsReplaced) {
  VORONOI_NEEDS_DATA("tokenizers/gpt2/vocab.json");
  const auto tokenizer = open_tokenizer(data_path("tokenizers/gpt2"));
  const auto through = [&](std::string_view text) { return tokenizer->decode(tokenizer->encode(text)); };
  EXPECT_EQ(through("a\xFFz"), "a\xEF\xBF\xBDz");
  EXPECT_EQ(through("\xE2\x82"), "\xEF\xBF\xBD") << "a maximal part is one replacement";
  EXPECT_EQ(through("\xED\xA0\x80"), "\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD") << "a surrogate";
  EXPECT_EQ(through("\xF4\x90\x80\x80"), "\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD");
  EXPECT_EQ(through(std::string_view("a\0b", 3)), std::string_view("a\0b", 3));
  EXPECT_EQ(tokenizer->decode(Ids{-1, 64, 50257}),
            "\xEF\xBF\xBD"
            "a\xEF\xBF\xBD");
}

TEST(Tokenizer, LongWordsAreNotQuadratic) {
  VORONOI_NEEDS_DATA("tokenizers/llama3/tokenizer.json");
  // Each is one pre-token (or one sentence); a quadratic merge would need hours.
  std::vector<std::string> texts = {std::string(100000, 'a'), std::string(1000000, '['), std::string(100000, ' ')};
  std::string mixed;
  for (int i = 0; i < 100000; ++i) mixed += static_cast<char>('a' + i % 1013 * (i % 31) % 7 * (i % 3));
  texts.push_back(mixed);
  for (const char* name :
       {"tokenizers/llama3", "tokenizers/llama2", "tokenizers/ggml-vocab/ggml-vocab-llama-spm.gguf"}) {
    const auto tokenizer = open_tokenizer(data_path(name));
    for (const std::string& text : texts) EXPECT_EQ(tokenizer->decode(tokenizer->encode(text)), text) << name;
  }
}

}  // namespace
}  // namespace voronoi::model
