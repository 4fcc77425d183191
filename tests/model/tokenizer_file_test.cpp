#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <cstdio>
#include <filesystem>
#include <fstream>

#include "core/error.h"
#include "core/file.h"
#include "core/json.h"
#include "model/tokenizer.h"
#include "support/data.h"

namespace voronoi::model {
namespace {

using test::data_path;
using Ids = std::vector<std::int32_t>;

class TokenizerFile : public ::testing::Test {
 protected:
  void SetUp() override {
    directory_ = std::filesystem::path(::testing::TempDir()) /
                 ("voronoi-tokenizer-" + std::string(::testing::UnitTest::GetInstance()->current_test_info()->name()) +
                  "-" + std::to_string(::getpid()));
    std::filesystem::create_directories(directory_);
  }
  void TearDown() override { std::filesystem::remove_all(directory_); }

  std::string write(const std::string& name, std::string_view content) const {
    const std::string path = (directory_ / name).string();
    std::ofstream(path, std::ios::binary) << content;
    return path;
  }
  std::string write(const core::Json& json) const { return write("tokenizer.json", json.dump()); }
  /// Opening the file must fail with a FormatError that names it and holds `part`.
  static void expect_refused(const std::string& path, const std::string& part) {
    try {
      open_tokenizer(path);
      ADD_FAILURE() << "opened; wanted an error with: " << part;
    } catch (const core::FormatError& error) {
      const std::string what = error.what();
      EXPECT_EQ(what.rfind(path, 0), 0U) << what;
      EXPECT_NE(what.find(part), std::string::npos) << what << "\nwanted: " << part;
    }
  }
  std::filesystem::path directory_;
};

/// Byte-level; ids: a b c, a space, ab, " a", "<s>" (matched in text).
core::Json small_json() {
  return core::Json::parse(R"J({
    "version": "1.0", "truncation": null, "padding": null,
    "added_tokens": [{"id": 6, "content": "<s>", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true}],
    "normalizer": null,
    "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
    "post_processor": null, "decoder": {"type": "ByteLevel"},
    "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null, "end_of_word_suffix": null,
      "fuse_unk": false, "byte_fallback": false,
      "vocab": {"a": 0, "b": 1, "c": 2, "\u0120": 3, "ab": 4, "\u0120a": 5}, "merges": ["a b", "\u0120 a"]}})J");
}

/// Characters with bytes behind them, as Llama-2's tokenizer.json; ids 0..255 the bytes.
core::Json small_characters() {
  core::Json json = small_json();
  json["pre_tokenizer"] = nullptr;
  json["normalizer"] =
      core::Json::parse(R"({"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "\u2581"},
      {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}]})");
  json["decoder"] = core::Json::parse(
      R"({"type": "Sequence", "decoders": [{"type": "Replace", "pattern": {"String": "\u2581"}, "content": " "},
      {"type": "ByteFallback"}, {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]})");
  core::Json vocab = core::Json::object();
  for (int i = 0; i < 256; ++i) {
    char name[8];
    std::snprintf(name, sizeof name, "<0x%02X>", static_cast<unsigned>(i));
    vocab[name] = i;
  }
  const char* pieces[] = {"\u2581",
                          "a",
                          "b",
                          "\u2581"
                          "a",
                          "ab",
                          "<s>"};
  for (int i = 0; i < 6; ++i) vocab[pieces[i]] = 256 + i;
  json["model"]["vocab"] = vocab;
  json["model"]["merges"] = core::Json::parse(R"([["\u2581", "a"], ["a", "b"]])");
  json["model"]["byte_fallback"] = true;
  json["added_tokens"][0]["id"] = 261;
  return json;
}

TEST_F(TokenizerFile, SmallJsonMergesAndMatchesAddedTokens) {
  const auto tokenizer = open_tokenizer(write(small_json()));
  EXPECT_EQ(tokenizer->encode("abc ab a<s> ca"), (Ids{4, 2, 3, 4, 5, 6, 3, 2, 0}));
  EXPECT_EQ(tokenizer->decode(Ids{4, 2, 3, 4, 5, 6, 3, 2, 0}), "abc ab a<s> ca");
  EXPECT_EQ(tokenizer->encode("axc"), (Ids{0, 2}))
      << "bytes without a token vanish, as in the library that made such files";
  EXPECT_EQ(tokenizer->bos_id(), std::nullopt);
}

TEST_F(TokenizerFile, NormalizerThatMultipliesATextIsRefused) {
  core::Json json = small_characters();
  const core::Json twice{{"type", "Replace"}, {"pattern", {{"String", "a"}}}, {"content", "aa"}};
  for (int i = 0; i < 40; ++i) json["normalizer"]["normalizers"].push_back(twice);
  const auto tokenizer = open_tokenizer(write(json));
  EXPECT_EQ(tokenizer->encode("b").size(), 2U);
  EXPECT_THROW(tokenizer->encode("a"), core::FormatError);
}

TEST_F(TokenizerFile, EndlessPreTokenizerIsRefused) {
  core::Json json = small_json();
  core::Json steps = core::Json::array();
  for (int i = 0; i < 65; ++i) steps.push_back({{"type", "Digits"}, {"individual_digits", true}});
  steps.push_back({{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", false}});
  json["pre_tokenizer"] = {{"type", "Sequence"}, {"pretokenizers", steps}};
  expect_refused(write(json), "the pre-tokenizer has 65 steps");
}

TEST_F(TokenizerFile, IgnoreMergesTakesWholeWords) {
  core::Json json = small_json();
  json["model"]["vocab"]["bc"] = 7;
  EXPECT_EQ(open_tokenizer(write(json))->encode("bc"), (Ids{1, 2}));
  json["model"]["ignore_merges"] = true;
  EXPECT_EQ(open_tokenizer(write(json))->encode("bc"), (Ids{7}));
}

TEST_F(TokenizerFile, AddedTokensStripAndTheLongestWins) {
  core::Json json = small_json();
  json["added_tokens"].push_back(
      {{"id", 7}, {"content", "<s>b"}, {"lstrip", true}, {"rstrip", true}, {"normalized", false}});
  const auto tokenizer = open_tokenizer(write(json));
  EXPECT_EQ(tokenizer->encode("a \xC2\xA0<s>b \n c"), (Ids{0, 7, 2}));
  EXPECT_EQ(tokenizer->encode("<s><s<s>"), (Ids{6, 6})) << "'<s' has no tokens here";
}

TEST_F(TokenizerFile, PrefixSpaceAndUnknownToken) {
  core::Json json = small_json();
  json["pre_tokenizer"]["add_prefix_space"] = true;
  json["model"]["unk_token"] = "c";
  EXPECT_EQ(open_tokenizer(write(json))->encode("aab xyb"), (Ids{5, 4, 3, 2, 2, 1}));
  json["model"]["fuse_unk"] = true;
  EXPECT_EQ(open_tokenizer(write(json))->encode("aab xyb"), (Ids{5, 4, 3, 2, 1}));
}

TEST_F(TokenizerFile, SplittingAtSpacesThatTheNormalizerReplacedDoesNothing) {
  // As Gemma's tokenizer.json: no prefix, and a pre-tokenizer that has nothing left to do.
  core::Json json = small_characters();
  json["normalizer"] = core::Json::parse(R"({"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"})");
  json["pre_tokenizer"] = core::Json::parse(
      R"({"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": false})");
  EXPECT_EQ(open_tokenizer(write(json))->encode("ab  ab a"), (Ids{260, 256, 259, 258, 259}));
  json["normalizer"] = nullptr;
  EXPECT_EQ(open_tokenizer(write(json))->encode("ab  ab a"), (Ids{260, 32, 32, 260, 32, 257}));
}

TEST_F(TokenizerFile, CharactersFallBackToBytes) {
  const auto tokenizer = open_tokenizer(write(small_characters()));
  EXPECT_EQ(tokenizer->encode("ab \xC3\xA9<s>a"), (Ids{259, 258, 256, 0xC3, 0xA9, 261, 259}));
  EXPECT_EQ(tokenizer->decode(Ids{259, 258, 256, 0xC3, 0xA9}), "ab \xC3\xA9");
  EXPECT_EQ(tokenizer->encode(""), Ids{});
}

TEST_F(TokenizerFile, MetaspaceFollowsItsScheme) {
  core::Json json = small_characters();
  json["normalizer"] = nullptr;
  json["pre_tokenizer"] = {
      {"type", "Metaspace"}, {"replacement", "\u2581"}, {"prepend_scheme", "first"}, {"split", false}};
  EXPECT_EQ(open_tokenizer(write(json))->encode("a  a<s>a"), (Ids{259, 256, 259, 261, 257}));
  json["pre_tokenizer"]["prepend_scheme"] = "always";
  json["pre_tokenizer"]["split"] = true;
  EXPECT_EQ(open_tokenizer(write(json))->encode("a  a<s>a"), (Ids{259, 256, 259, 261, 259}));
  json["pre_tokenizer"]["prepend_scheme"] = "never";
  EXPECT_EQ(open_tokenizer(write(json))->encode("a  a<s>a"), (Ids{257, 256, 259, 261, 257}));
}

TEST_F(TokenizerFile, WhatIsNotImplementedIsRefusedByName) {
  const auto refused = [&](const std::string& pointer, const core::Json& value, const std::string& part) {
    core::Json json = small_json();
    json[core::Json::json_pointer(pointer)] = value;
    expect_refused(write(json), part);
  };
  refused("/model/type", "Unigram", "type Unigram");
  refused("/model/type", "WordPiece", "tokenizer.model");
  refused("/model/dropout", 0.1, "dropout");
  refused("/model/end_of_word_suffix", "</w>", "end_of_word_suffix");
  refused("/model/continuing_subword_prefix", "##", "continuing_subword_prefix");
  refused("/model/new_key", 1, "new_key");
  refused("/new_key", 1, "new_key");
  refused("/normalizer", {{"type", "Lowercase"}}, "Lowercase");
  refused("/normalizer", {{"type", "StripAccents"}}, "StripAccents");
  refused("/pre_tokenizer", {{"type", "Whitespace"}}, "Whitespace");
  refused("/pre_tokenizer/new_key", true, "new_key");
  refused("/post_processor", {{"type", "BertProcessing"}}, "cls is not a list");
  refused("/decoder", {{"type", "WordPiece"}}, "WordPiece");
  const auto split = [](const core::Json& pattern, const std::string& behavior) {
    return core::Json{{"type", "Split"}, {"pattern", pattern}, {"behavior", behavior}, {"invert", false}};
  };
  refused("/pre_tokenizer", split({{"Regex", "a"}}, "Doubled"), "Doubled");
  refused("/pre_tokenizer", split({{"Regex", "(a"}}, "Isolated"), "cannot be compiled");
  refused("/pre_tokenizer", split({{"Regex", "\\h+"}}, "Isolated"), "\\h");
  refused("/pre_tokenizer", split({{"Regex", "[a[b]]"}}, "Isolated"), "class in a class");
  refused("/pre_tokenizer", split({{"Regex", "(?m:.)"}}, "Isolated"), "(?m:");
}

TEST_F(TokenizerFile, ARunawayPatternIsAnErrorNotAHang) {
  core::Json json = small_json();
  json["pre_tokenizer"] = core::Json::parse(R"J({"type": "Sequence", "pretokenizers": [
      {"type": "Split", "pattern": {"Regex": "(?:a|aa|a+)+(?=[xy])"}, "behavior": "Isolated", "invert": false}, {"type": "ByteLevel", "use_regex": false}]})J");
  EXPECT_THROW(open_tokenizer(write(json))->encode(std::string(5000, 'a') + "c"), core::FormatError);
}

TEST_F(TokenizerFile, InconsistentVocabulariesAreRefused) {
  core::Json json = small_json();
  json["model"]["merges"] = {"a b", "b x"};
  expect_refused(write(json), "merge 1 names \"x\"");
  json["model"]["merges"] = {"b c"};
  expect_refused(write(json), "merge 0 names \"bc\"");
  for (const char* bad : {"ab", "a b c", "", " ", "a ", " b"}) {
    json["model"]["merges"] = {bad};
    expect_refused(write(json), "merge 0");
  }
  json["model"]["merges"] = core::Json::parse(R"([["a", "b", "c"]])");
  expect_refused(write(json), "merge 0 is not a pair");
  json["model"]["merges"] = core::Json::parse(R"([[["a"], "b"]])");
  expect_refused(write(json), "merge 0");
  json["model"]["merges"] = {7};
  expect_refused(write(json), "merge 0");
  json = small_json();
  json["model"]["vocab"]["b"] = 0;
  expect_refused(write(json), "the id 0 stands twice");
  for (const core::Json& id :
       {core::Json(-1), core::Json(1.5), core::Json("1"), core::Json(core::Json::array()), core::Json(nullptr)}) {
    json["model"]["vocab"]["b"] = id;
    expect_refused(write(json), "token \"b\"");
  }
  json["model"]["vocab"]["b"] = 4000000000U;
  expect_refused(write(json), "far beyond");
  json["model"]["vocab"]["b"] = 18446744073709551615U;
  expect_refused(write(json), "far beyond");
  json = small_json();
  json["added_tokens"][0]["id"] = -1;
  expect_refused(write(json), "id is not a whole number");
  json["added_tokens"][0]["content"] = "";
  json["added_tokens"][0]["id"] = 6;
  expect_refused(write(json), "empty");
  json = small_json();
  json["model"]["unk_token"] = "?";
  expect_refused(write(json), "unk_token");
  json = small_json();
  json["model"]["vocab"] = core::Json::object();
  expect_refused(write(json), "vocabulary is empty");
  json = small_characters();
  json["model"]["vocab"].erase("<0x41>");
  expect_refused(write(json), "256");
  std::string text = small_json().dump();
  text.replace(text.find("\"b\":1"), 5, "\"a\":1");
  expect_refused(write("tokenizer.json", text), "token \"a\" stands twice");
}

TEST_F(TokenizerFile, BrokenJsonIsRefusedAtEveryCut) {
  const std::string text = small_json().dump();
  for (std::size_t cut = 0; cut < text.size(); ++cut)
    expect_refused(write("tokenizer.json", text.substr(0, cut)), "JSON");
  expect_refused(write("tokenizer.json", text + "x"), "JSON");
  expect_refused(write("tokenizer.json", std::string(1000000, '[')), "deeper than 100");
  std::string deep;
  for (int i = 0; i < 100000; ++i) deep += "{\"a\":";
  expect_refused(write("tokenizer.json", deep), "deeper than 100");
  expect_refused(write("tokenizer.json", "{\"model\":{\"vocab\":{\"a\":" + std::string(1000000, '[')), "token \"a\"");
  expect_refused(write("tokenizer.json", "{\"model\":{\"type\":1,\"type\":2}}"), "stands twice");
  expect_refused(write("tokenizer.json", "[]"), "not an object");
  expect_refused(write("tokenizer.json", "{}"), "not a tokenizer.json");
}

TEST_F(TokenizerFile, BrokenSentencepieceModelsAreRefused) {
  VORONOI_NEEDS_DATA("models/stories260K/tok512.model");
  const std::string model = core::read_text_file(data_path("models/stories260K/tok512.model"));
  for (std::size_t cut = 0; cut < model.size(); cut += cut < 200 || cut + 300 > model.size() ? 1U : 61U)
    expect_refused(write("t.model", model.substr(0, cut)), "t.model");
  for (const char* junk : {"{}", "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n"})
    expect_refused(write("t.model", junk), junk[0] == '{' ? "not a sentencepiece model" : "git lfs pull");
  expect_refused(write("t.model", "IQ== 0\nIg== 1\n"), "tiktoken");
  expect_refused(write("t.model", std::string(1000000, '[')), "not a sentencepiece model");
}

/// A control token that a text can hold: the library loads the model and fails on the text.
TEST_F(TokenizerFile, SentencepieceModelThatFailsOnATextIsTheFilesFault) {
  const auto field = [](int number, const std::string& content) {
    return static_cast<char>(number << 3 | 2) + std::string(1, static_cast<char>(content.size())) + content;
  };
  const auto piece = [&](const std::string& text, char type) {
    return field(1, field(1, text) + std::string("\x15\0\0\0\0\x18", 6) + type);
  };
  const std::string model = piece("<unk>", 2) + piece("<s>", 3) + piece("x", 3) + piece("\xE2\x96\x81", 1) +
                            piece("a", 1) + field(2, "\x18\x02") + field(3, field(1, "identity") + "\x18\x01");
  const std::string path = write("t.model", model);
  const auto tokenizer = open_tokenizer(path);
  EXPECT_FALSE(tokenizer->encode("a a").empty());
  try {
    tokenizer->encode("axa");
    ADD_FAILURE() << "encoded";
  } catch (const core::FormatError& error) {
    EXPECT_NE(std::string(error.what()).find(path + ": sentencepiece fails on a text"), std::string::npos)
        << error.what();
  }
}

TEST_F(TokenizerFile, DamagedSentencepieceModelsNeverCrash) {
  VORONOI_NEEDS_DATA("models/stories260K/tok512.model");
  const std::string model = core::read_text_file(data_path("models/stories260K/tok512.model"));
  int opened = 0, refused = 0;
  for (std::size_t i = 0; i < 600; ++i) {
    std::string damaged = model;
    const std::size_t at = i < 200 ? i : i * 7919 % model.size();
    damaged[at] = static_cast<char>(damaged[at] ^ static_cast<char>(1 << (i % 8)));
    try {
      const auto tokenizer = open_tokenizer(write("t.model", damaged));
      tokenizer->decode(tokenizer->encode("Once upon a time \xC3\xA9"));
      ++opened;
    } catch (const core::FormatError&) {
      ++refused;
    }
  }
  EXPECT_GT(opened, 0);
  EXPECT_GT(refused, 0);
}

TEST_F(TokenizerFile, Gpt2FilesOfAnotherClassAreRefused) {
  const std::string vocab = write("vocab.json", R"({"a": 0, "b": 1, "ab": 2})");
  write("merges.txt", "#version: 0.2\na b\n");
  EXPECT_EQ(open_tokenizer(directory_.string())->encode("ab"), (Ids{2}));
  const auto refused = [&](const std::string& part) {
    try {
      open_tokenizer(directory_.string());
      ADD_FAILURE() << part;
    } catch (const core::FormatError& error) {
      EXPECT_NE(std::string(error.what()).find(part), std::string::npos) << error.what();
    }
  };
  write("merges.txt", "#version: 0.2\na b\nab\n");
  refused("merges.txt: line 3");
  write("merges.txt", "a c\n");
  refused("\"c\"");
  write("merges.txt", "a b\n");
  write("tokenizer_config.json", R"({"tokenizer_class": "Qwen2Tokenizer"})");
  refused("Qwen2Tokenizer");
  write("tokenizer_config.json", "{}");
  write("vocab.json", R"({"a": {"b": 1}})");
  refused("token \"a\"");
}

TEST_F(TokenizerFile, PathsWithoutATokenizerAreRefusedWithARemedy) {
  expect_refused(directory_.string(), "tokenizer.json or tokenizer.model");
  expect_refused(write("notes.txt", "abc"), "not a tokenizer");
  EXPECT_THROW(open_tokenizer((directory_ / "absent").string()), core::StoreError);
}

// ---- GGUF files made here ----

class GgufBytes {
 public:
  GgufBytes& text(const std::string& key, const std::string& value) { return entry(key, 8, string(value)); }
  GgufBytes& flag(const std::string& key, bool value) { return entry(key, 7, std::string(1, value ? '\1' : '\0')); }
  GgufBytes& number(const std::string& key, std::uint32_t value) { return entry(key, 4, raw(value)); }
  GgufBytes& texts(const std::string& key, const std::vector<std::string>& values) {
    std::string data = raw(std::uint32_t{8}) + raw(std::uint64_t{values.size()});
    for (const std::string& value : values) data += string(value);
    return entry(key, 9, data);
  }
  template <class T>
  GgufBytes& array(const std::string& key, std::uint32_t type, const std::vector<T>& values) {
    std::string data = raw(type) + raw(std::uint64_t{values.size()});
    for (const T value : values) data += raw(value);
    return entry(key, 9, data);
  }
  std::string str() const { return "GGUF" + raw(std::uint32_t{3}) + raw(std::uint64_t{0}) + raw(count_) + entries_; }

 private:
  template <class T>
  static std::string raw(T value) {
    return {reinterpret_cast<const char*>(&value), sizeof value};
  }
  static std::string string(const std::string& value) { return raw(std::uint64_t{value.size()}) + value; }
  GgufBytes& entry(const std::string& key, std::uint32_t type, const std::string& data) {
    entries_ += string("tokenizer.ggml." + key) + raw(type) + data;
    ++count_;
    return *this;
  }
  std::string entries_;
  std::uint64_t count_ = 0;
};

GgufBytes small_gguf(const std::string& pre) {
  return GgufBytes()
      .text("model", "gpt2")
      .text("pre", pre)
      .texts("tokens", {"a", "b", "1", "ab", "<s>", "<u>"})
      .array<std::int32_t>("token_type", 5, {1, 1, 1, 1, 3, 4});
}

TEST_F(TokenizerFile, GgufByteLevelVocabulary) {
  const auto open = [&](const GgufBytes& bytes) { return open_tokenizer(write("t.gguf", bytes.str())); };
  const auto tokenizer = open(small_gguf("llama-bpe").texts("merges", {"a b"}).number("bos_token_id", 4));
  EXPECT_EQ(tokenizer->encode("ab<u>"), (Ids{3, 5}));
  EXPECT_EQ(tokenizer->automatic_bos(), 4) << "llama-bpe adds BOS unless the file says otherwise";
  EXPECT_EQ(
      open(small_gguf("llama-bpe").texts("merges", {"a b"}).number("bos_token_id", 4).flag("add_bos_token", false))
          ->automatic_bos(),
      std::nullopt);
  EXPECT_EQ(open(small_gguf("gpt-2").texts("merges", {"a b"}).number("bos_token_id", 4))->automatic_bos(),
            std::nullopt);
  for (const char* pre : {"default", "smollm", "qwen2", "tekken"})
    EXPECT_EQ(open(small_gguf(pre).texts("merges", {"a b"}).number("bos_token_id", 4))->encode("ab11"), (Ids{3, 2, 2}))
        << pre;
}

TEST_F(TokenizerFile, GgufWithoutAPreTokenizerIsSaid) {
  const auto said = [&](const std::string& name, GgufBytes bytes) {
    testing::internal::CaptureStderr();
    EXPECT_EQ(open_tokenizer(write(name, bytes.texts("merges", {"a b"}).str()))->encode("ab11"), (Ids{3, 2, 2}));
    return testing::internal::GetCapturedStderr();
  };
  const auto vocabulary = [](GgufBytes bytes) {
    return bytes.text("model", "gpt2")
        .texts("tokens", {"a", "b", "1", "ab", "<s>", "<u>"})
        .array<std::int32_t>("token_type", 5, {1, 1, 1, 1, 3, 4});
  };
  EXPECT_NE(said("old.gguf", vocabulary({})).find("has no tokenizer.ggml.pre"), std::string::npos);
  EXPECT_NE(said("default.gguf", small_gguf("default")).find("--tokenizer"), std::string::npos);
  EXPECT_EQ(said("known.gguf", small_gguf("gpt-2")), "");
}

TEST_F(TokenizerFile, BrokenGgufVocabulariesAreRefused) {
  const auto refused = [&](const GgufBytes& bytes, const std::string& part) {
    expect_refused(write("t.gguf", bytes.str()), part);
  };
  refused(GgufBytes().text("model", "bert"), "\"bert\" is not supported");
  refused(GgufBytes(), "tokenizer.ggml.model");
  refused(GgufBytes().text("model", "gpt2").text("pre", "gpt-2"), "tokenizer.ggml.tokens");
  refused(small_gguf("unheard-of"), "unheard-of");
  refused(small_gguf("gpt-2"), "tokenizer.ggml.merges");
  refused(small_gguf("gpt-2").texts("merges", {"a x"}), "merges[0] names \"x\"");
  refused(small_gguf("gpt-2").texts("merges", {"b a"}), "merges[0] names \"ba\"");
  refused(small_gguf("gpt-2").texts("merges", {"a"}), "merges[0]");
  refused(small_gguf("gpt-2").texts("merges", {"a b"}).number("bos_token_id", 6), "bos_token_id is 6");
  refused(small_gguf("gpt-2").texts("merges", {"a b"}).flag("add_bos_token", true), "BOS");
  const auto spm = [](const std::vector<std::string>& tokens) {
    return GgufBytes().text("model", "llama").texts("tokens", tokens);
  };
  refused(spm({}), "tokens is empty");
  refused(spm({"a"}), "tokenizer.ggml.scores");
  refused(spm({"a"}).array<float>("scores", 6, {1, 2}), "2 entries for 1 tokens");
  refused(spm({"a"}).array<float>("scores", 6, {NAN}), "not finite");
  refused(spm({"a"}).array<float>("scores", 6, {1}), "256");
  refused(spm({"a", "a"}).array<float>("scores", 6, {1, 1}), "same token");
  refused(spm({"a"}).array<std::int32_t>("token_type", 5, {9}).array<float>("scores", 6, {1}), "token_type[0] is 9");
  refused(spm({"a"}).array<std::int32_t>("token_type", 5, {6}).array<float>("scores", 6, {1}), "type byte");
  refused(spm({"\xFF"}).array<float>("scores", 6, {1}), "UTF-8");
}

}  // namespace
}  // namespace voronoi::model
