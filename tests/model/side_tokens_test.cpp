// What stands beside a tokenizer's own file, and variants of tokenizer.json; ids are those of transformers 4.57.1 and
// tokenizers 0.22.
#include <gmock/gmock.h>

#include <cstdio>
#include <filesystem>

#include "core/error.h"
#include "core/file.h"
#include "core/json.h"
#include "model/model_files.h"
#include "model/tokenizer.h"
#include "support/data.h"

namespace voronoi::model {
namespace {

using core::Json;
using Ids = std::vector<std::int32_t>;
using testing::HasSubstr;

class SideTokens : public ::testing::Test {
 protected:
  void write(const std::string& name, const char* content) const { folder_.write(name, content); }
  void write(const std::string& name, const std::string& content) const { folder_.write(name, content); }
  void write(const std::string& name, const Json& json) const { folder_.write(name, json.dump()); }
  std::unique_ptr<Tokenizer> open() const { return open_tokenizer(folder_.path()); }
  Ids ids(const std::string& text) const { return open()->encode(text); }
  test::TemporaryFolder folder_;
};

Json added_token(std::int64_t id, const std::string& content, const Json& more = Json::object()) {
  Json token{{"id", id},        {"content", content},  {"single_word", false}, {"lstrip", false},
             {"rstrip", false}, {"normalized", false}, {"special", true}};
  token.update(more);
  return token;
}

/// Byte level; ids 0 to 9: a b c, a space, ab, " a", two spaces, "b ", "-", "--".
Json spaced_json(const Json& pre_tokenizer = nullptr) {
  Json steps = Json::array();
  if (!pre_tokenizer.is_null()) steps.push_back(pre_tokenizer);
  steps.push_back({{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", false}});
  return {{"added_tokens", Json::array()},
          {"pre_tokenizer", {{"type", "Sequence"}, {"pretokenizers", steps}}},
          {"decoder", {{"type", "ByteLevel"}}},
          {"model",
           {{"type", "BPE"},
            {"vocab", Json::parse(R"({"a": 0, "b": 1, "c": 2, "\u0120": 3, "ab": 4, "\u0120a": 5, "\u0120\u0120": 6,
                                      "b\u0120": 7, "-": 8, "--": 9})")},
            {"merges", Json::parse(R"(["\u0120 \u0120", "a b", "\u0120 a", "b \u0120", "- -"])")}}}};
}

TEST_F(SideTokens, EverySplitLeavesThePiecesOfTheReference) {
  const auto split = [&](const std::string& behavior, bool invert, const Json& pattern = {{"Regex", " "}}) {
    write("tokenizer.json",
          spaced_json({{"type", "Split"}, {"pattern", pattern}, {"behavior", behavior}, {"invert", invert}}));
    return ids("ab  ab a--b ");
  };
  for (const bool invert : {false, true}) {
    EXPECT_EQ(split("Isolated", invert), (Ids{4, 3, 3, 4, 3, 0, 9, 1, 3}));
    EXPECT_EQ(split("Contiguous", invert), (Ids{4, 6, 4, 3, 0, 9, 1, 3}));
    EXPECT_EQ(split("MergedWithPrevious", invert),
              invert ? (Ids{4, 3, 3, 4, 5, 9, 1, 3}) : (Ids{4, 3, 3, 4, 3, 0, 9, 7}));
    EXPECT_EQ(split("MergedWithNext", invert), invert ? (Ids{4, 3, 3, 4, 3, 0, 9, 7}) : (Ids{4, 3, 3, 4, 5, 9, 1, 3}));
  }
  EXPECT_EQ(split("Removed", false), (Ids{4, 4, 0, 9, 1}));
  EXPECT_EQ(split("Removed", true), (Ids{3, 3, 3, 3}));
  EXPECT_EQ(split("Isolated", false, {{"String", "--"}}), (Ids{4, 6, 4, 5, 9, 7}));
  const auto step = [&](const Json& json) {
    write("tokenizer.json", spaced_json(json));
    return ids("ab  ab a--b ");
  };
  EXPECT_EQ(step({{"type", "Punctuation"}}), (Ids{4, 6, 4, 5, 8, 8, 7}));
  EXPECT_EQ(step({{"type", "Punctuation"}, {"behavior", "Contiguous"}}), (Ids{4, 6, 4, 5, 9, 7}));
  EXPECT_EQ(step({{"type", "WhitespaceSplit"}}), (Ids{4, 4, 0, 9, 1}));
}

TEST_F(SideTokens, NormalizersOfUnicodeAndPatterns) {
  Json json = spaced_json();
  json["normalizer"] = {{"type", "Replace"}, {"pattern", {{"Regex", " {2,}"}}}, {"content", " "}};
  write("tokenizer.json", json);
  EXPECT_EQ(ids("ab  ab a--b "), (Ids{4, 3, 4, 5, 9, 7}));
  const auto form = [&](const std::string& name) {
    json["normalizer"] = {{"type", name}};
    write("tokenizer.json", json);
    return ids("\xC2\xA0\xEF\xBC\x8D\xEF\xBD\x81");  // no-break space, full-width - and a: compatible with " -a"
  };
  EXPECT_EQ(form("NFKC"), (Ids{3, 8, 0}));
  EXPECT_EQ(form("NFKD"), (Ids{3, 8, 0}));
  EXPECT_EQ(form("NFD"), Ids{});
  json["normalizer"] = {{"type", "NFD"}};
  write("tokenizer.json", json);
  EXPECT_EQ(ids("\xC3\xA2"), Ids{0}) << "a with a circumflex is an a, and a mark that has no token";
}

TEST_F(SideTokens, AddedTokensGetTheIdsOfTheReference) {
  Json json = spaced_json();
  json["added_tokens"] = {added_token(10, "ab", {{"single_word", true}}), added_token(20, "<far>"), added_token(1, "a"),
                          added_token(30, "<x>")};
  write("tokenizer.json", json);
  testing::internal::CaptureStderr();
  EXPECT_EQ(ids("ab cab ab-<far><x>a"), (Ids{4, 3, 2, 4, 3, 4, 8, 10, 11, 0}));
  EXPECT_THAT(testing::internal::GetCapturedStderr(), HasSubstr("\"<far>\" has the id 20 there; it gets 10"));
}

TEST_F(SideTokens, ASingleWordStandsAlone) {
  Json json = spaced_json();
  json["added_tokens"] = Json::array({added_token(10, "<w>", {{"single_word", true}})});
  write("tokenizer.json", json);
  EXPECT_EQ(ids("<w> a<w> <w>b -<w>- <w>"), (Ids{10, 5, 3, 7, 8, 10, 8, 3, 10}));
}

TEST_F(SideTokens, ByteFallbackOfByteLevelIsNeverAskedFor) {
  Json json = spaced_json();
  json["model"]["byte_fallback"] = true;
  write("tokenizer.json", json);
  EXPECT_EQ(ids("ab-x"), (Ids{4, 8})) << "there is nothing to fall back to";
  json["model"]["vocab"]["<0x41>"] = 10;
  json["model"]["unk_token"] = "<none>";
  write("tokenizer.json", json);
  EXPECT_THROW(open(), core::FormatError) << "some byte has no token";
  // GPT-2's alphabet: printable bytes of Latin-1 are themselves, the others U+0100 onwards.
  Json vocab = Json::object();
  int next = 0x100;
  for (int byte = 0; byte < 256; ++byte) {
    const bool printable = (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte != 0xAD);
    const int c = printable ? byte : next++;
    std::string name(1, static_cast<char>(c));
    if (c >= 0x80) name = {static_cast<char>(0xC0 | (c >> 6)), static_cast<char>(0x80 | (c & 0x3F))};
    vocab[name] = byte;
  }
  json["model"]["vocab"] = vocab;
  json["model"]["merges"] = Json::array();
  json["decoder"] = Json::parse(R"({"type": "Sequence", "decoders": [{"type": "ByteFallback"}, {"type": "Fuse"},
      {"type": "Replace", "pattern": {"String": "\u2581"}, "content": " "}, {"type": "ByteLevel"}]})");
  write("tokenizer.json", json);
  EXPECT_EQ(ids("a \xC3\xA9"), (Ids{'a', ' ', 0xC3, 0xA9}));
  EXPECT_EQ(open()->decode(Ids{'a', ' ', 0xC3, 0xA9}), "a \xC3\xA9");
}

TEST_F(SideTokens, TheTemplateOrTheSettingDecidesOnBos) {
  Json json = spaced_json();
  json["added_tokens"] = Json::array({added_token(10, "<s>")});
  const Json special{{"SpecialToken", {{"id", "<s>"}, {"type_id", 0}}}},
      text{{"Sequence", {{"id", "A"}, {"type_id", 0}}}};
  Json templated = json;
  templated["post_processor"] = {
      {"type", "Sequence"},
      {"processors",
       {{{"type", "ByteLevel"}},
        {{"type", "TemplateProcessing"},
         {"single", {special, text}},
         {"pair", Json::array()},
         {"special_tokens", {{"<s>", {{"id", "<s>"}, {"ids", {10}}, {"tokens", {"<s>"}}}}}}}}}};
  const auto bos = [&](const std::string& name, bool has_template, const Json& setting) {
    Json settings{{"bos_token", "<s>"}};
    if (!name.empty()) settings["tokenizer_class"] = name;
    if (!setting.is_null()) settings["add_bos_token"] = setting;
    write("tokenizer_config.json", settings);
    write("tokenizer.json", has_template ? templated : json);
    return open()->automatic_bos().has_value();
  };
  // A class of its own makes the template anew from the setting, whatever the file has.
  for (const char* own : {"LlamaTokenizer", "LlamaTokenizerFast", "GemmaTokenizer", ""})
    for (const bool has_template : {false, true}) {
      EXPECT_TRUE(bos(own, has_template, true)) << own;
      EXPECT_FALSE(bos(own, has_template, false)) << own;
      EXPECT_EQ(bos(own, has_template, nullptr), has_template) << own;
    }
  for (const char* other : {"PreTrainedTokenizerFast", "GPT2Tokenizer", "Qwen2TokenizerFast"})
    for (const bool has_template : {false, true})
      for (const Json& setting : {Json(true), Json(false), Json(nullptr)})
        EXPECT_EQ(bos(other, has_template, setting), has_template) << other << " " << setting;
  EXPECT_EQ(open()->bos_id(), 10);
  // Without a class in the settings the model's kind tells it.
  write("config.json", R"({"model_type": "qwen2"})");
  EXPECT_FALSE(bos("", false, true));
  write("config.json", R"({"model_type": "llama"})");
  EXPECT_TRUE(bos("", false, true));
  // What a template puts behind the text is never added here.
  json["post_processor"] = templated["post_processor"];
  json["post_processor"]["processors"][1]["single"] = {text, special};
  EXPECT_FALSE(bos("PreTrainedTokenizerFast", false, nullptr));
  json["post_processor"]["processors"][1]["single"] = {special, text, special};
  EXPECT_TRUE(bos("PreTrainedTokenizerFast", false, nullptr));
  json["post_processor"] = {
      {"type", "RobertaProcessing"}, {"sep", {"b", 1}}, {"cls", {"a", 0}}, {"trim_offsets", true}};
  EXPECT_TRUE(bos("PreTrainedTokenizerFast", false, nullptr));
  json["post_processor"] = nullptr;
  write("tokenizer_config.json", R"({"add_bos_token": true, "bos_token": "<none>"})");
  write("tokenizer.json", json);
  EXPECT_THROW(open(), core::FormatError);
}

TEST_F(SideTokens, SettingsAddTokensToTokenizerJson) {
  write("tokenizer.json", spaced_json());
  write("tokenizer_config.json",
        Json{{"eos_token", "ab"},
             {"added_tokens_decoder",
              {{"10", {{"content", "<x>"}, {"lstrip", true}, {"special", false}, {"normalized", false}}},
               {"11", {{"content", "<y>"}}}}}});
  EXPECT_EQ(ids("ab <x><y> a"), (Ids{4, 10, 11, 5}));
  write("added_tokens.json", R"({"<z>": 12})");
  EXPECT_EQ(ids("<z>"), Ids{}) << "the settings' own list stands for all";
  write("tokenizer_config.json", "{}");
  write("added_tokens.json", R"({"<z>": 10})");
  EXPECT_EQ(ids("a<z>"), (Ids{0, 10}));
  write("added_tokens.json", R"({"<z>": -1})");
  EXPECT_THROW(open(), core::FormatError);
  write("added_tokens.json", "version https://git-lfs.github.com/spec/v1\n");
  EXPECT_THROW(open(), core::FormatError);
}

TEST_F(SideTokens, SettingsAddTokensToGpt2sFiles) {
  write("vocab.json", R"({"a": 0, "b": 1, "ab": 2, "<|endoftext|>": 3})");
  write("merges.txt", "a b\n");
  write("tokenizer_config.json", R"({"tokenizer_class": "GPT2Tokenizer"})");
  write("added_tokens.json", R"({"<|im_start|>": 4})");
  EXPECT_EQ(ids("ab<|endoftext|>b<|im_start|>a"), (Ids{2, 3, 1, 4, 0}));
}

TEST_F(SideTokens, SettingsAddTokensToASentencepieceModel) {
  VORONOI_NEEDS_DATA("models/stories260K/tok512.model");
  write("tokenizer.model", core::read_text_file(test::data_path("models/stories260K/tok512.model")));
  EXPECT_EQ(open()->automatic_bos(), 1);
  EXPECT_EQ(ids("a</s> b<s>c <unk> d"), (Ids{261, 2, 268, 1, 280, 0, 279})) << "the model's own special tokens";
  write("tokenizer_config.json", R"({"add_bos_token": false})");
  EXPECT_EQ(open()->automatic_bos(), std::nullopt);
  EXPECT_EQ(open()->bos_id(), 1);
  const std::string chat = "<|im_start|>user\nHello there<|im_end|>\n<|im_start|>x";
  write("added_tokens.json", R"({"<|im_start|>": 512, "<|im_end|>": 513})");
  EXPECT_EQ(ids(chat), (Ids{512, 318, 419, 285, 13, 440, 411, 306, 414, 383, 513, 410, 13, 512, 410, 444}));
  EXPECT_EQ(open()->vocab_size(), 514);
  EXPECT_EQ(open()->decode(Ids{512, 318, 419, 285, 513}), "<|im_start|>user<|im_end|>");
  // The new behaviour: no space in front of what follows a token.
  Json decoder = Json::object();
  for (const auto& [id, name] :
       {std::pair{"0", "<unk>"}, {"1", "<s>"}, {"2", "</s>"}, {"512", "<|im_start|>"}, {"513", "<|im_end|>"}})
    decoder[id] = {{"content", name}, {"special", true}};
  write("tokenizer_config.json",
        Json{{"tokenizer_class", "LlamaTokenizer"}, {"legacy", false}, {"added_tokens_decoder", decoder}});
  EXPECT_EQ(ids(chat), (Ids{512, 425, 419, 285, 13, 440, 411, 306, 414, 383, 513, 13, 512, 444}));
  EXPECT_EQ(ids("a</s> b<s>c <unk> d"), (Ids{261, 2, 268, 1, 429, 0, 279}));
  EXPECT_EQ(ids(" two  spaces   here "), (Ids{410, 259, 424, 414, 262, 427, 412, 331, 419, 281, 276}));
  EXPECT_EQ(ids("Once upon a time"),
            open_tokenizer(test::data_path("models/stories260K/tok512.model"))->encode("Once upon a time"));
  decoder["2000000000"] = {{"content", "<far>"}};
  write("tokenizer_config.json", Json{{"added_tokens_decoder", decoder}});
  EXPECT_THROW(open(), core::FormatError);
}

TEST_F(SideTokens, LlamasTokenizerTakesABlankInFrontAsTheReferenceDoes) {
  VORONOI_NEEDS_DATA("tokenizers/llama2/tokenizer.model");
  write("tokenizer.model", core::read_text_file(test::data_path("tokenizers/llama2/tokenizer.model")));
  // LlamaTokenizer with and without "legacy", and LlamaTokenizerFast with it: two spaces, one token.
  for (const char* settings : {"{}", R"({"legacy": true})", R"({"legacy": false})"}) {
    write("tokenizer_config.json", settings);
    EXPECT_EQ(ids(" \n = Robert"), (Ids{259, 13, 353, 4755})) << settings;
  }
}

}  // namespace
}  // namespace voronoi::model
