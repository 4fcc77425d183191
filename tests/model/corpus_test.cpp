#include "model/corpus.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <filesystem>
#include <fstream>

#include "core/error.h"
#include "core/hash.h"
#include "core/option.h"
#include "support/data.h"
#include "support/packed.h"

namespace voronoi::model {
namespace {

using Ids = std::vector<std::int32_t>;

/// A byte is an id; BOS is 1000.
class ByteTokenizer : public Tokenizer {
 public:
  ByteTokenizer(bool has_bos, bool adds_bos) : has_bos_(has_bos), adds_bos_(adds_bos) {}
  Ids encode(std::string_view text) const override {
    Ids ids;
    for (const char c : text) ids.push_back(static_cast<unsigned char>(c));
    return ids;
  }
  std::string decode(std::span<const std::int32_t> ids) const override { return {ids.begin(), ids.end()}; }
  std::int64_t vocab_size() const override { return 1001; }
  std::optional<std::int32_t> bos_id() const override { return has_bos_ ? std::optional(1000) : std::nullopt; }
  std::optional<std::int32_t> automatic_bos() const override { return adds_bos_ ? bos_id() : std::nullopt; }

 private:
  bool has_bos_, adds_bos_;
};

class Corpus : public ::testing::Test {
 protected:
  void SetUp() override {
    directory_ = std::filesystem::path(::testing::TempDir()) /
                 ("voronoi-corpus-" + std::string(::testing::UnitTest::GetInstance()->current_test_info()->name()) +
                  "-" + std::to_string(::getpid()));
    std::filesystem::create_directories(directory_);
  }
  void TearDown() override { std::filesystem::remove_all(directory_); }
  std::string write(std::string_view content, const std::string& name = "text") const {
    const std::string path = (directory_ / name).string();
    std::ofstream(path, std::ios::binary) << content;
    return path;
  }
  std::filesystem::path directory_;
};

template <class Call>
void expect_format_error(Call&& call, const std::string& path, const std::string& part) {
  try {
    call();
    ADD_FAILURE() << "no error; wanted: " << part;
  } catch (const core::FormatError& error) {
    const std::string what = error.what();
    EXPECT_EQ(what.rfind(path, 0), 0U) << what;
    EXPECT_NE(what.find(part), std::string::npos) << what << "\nwanted: " << part;
  }
}

Text text_of(std::string content, std::string path = "t") {
  return {std::move(path), "", Join::raw, std::move(content)};
}

TEST_F(Corpus, NamesOfJoins) {
  for (const Join join : {Join::raw, Join::wikitext, Join::jsonl}) EXPECT_EQ(join_from_name(join_name(join)), join);
  EXPECT_EQ(join_from_name("csv"), std::nullopt);
}

TEST_F(Corpus, RawTextIsKeptByteForByte) {
  const std::string content = "a\r\n\n\xFF b ";
  const Text text = load_text(write(content), Join::raw);
  EXPECT_EQ(text.content, content);
  EXPECT_EQ(text.sha256, core::sha256(content));
  EXPECT_EQ(text.join, Join::raw);
}

TEST_F(Corpus, WikitextRowsAreJoinedAsPapersDo) {
  // Rows "", " = A = \n", "", " b \n", and the last line without its line feed.
  EXPECT_EQ(load_text(write(" \n = A = \n\n b \n c"), Join::wikitext).content, "\n\n = A = \n\n\n\n\n b \n\n\n c");
  EXPECT_EQ(load_text(write("x\ny\n"), Join::wikitext).content, "x\n\n\ny\n");
}

TEST_F(Corpus, WikitextOfTheTestSplitHasThePublishedSize) {
  VORONOI_NEEDS_DATA("wikitext2/wiki.test.raw");
  const Text text = load_text(test::data_path("wikitext2/wiki.test.raw"), Join::wikitext);
  EXPECT_EQ(text.content.size(), 1296370U);
  EXPECT_EQ(text.sha256, "173c87a53759e0201f33e0ccf978e510c2042d7f2cb78229d9a50d79b9e7dd08");
}

TEST_F(Corpus, JsonLinesGiveTheirTexts) {
  EXPECT_EQ(load_text(write("{\"text\": \"a\\n\"}\n\n{\"url\": 1, \"text\": \"b\"}"), Join::jsonl).content, "a\n\n\nb");
}

TEST_F(Corpus, PackedTextsAreToldByTheirContent) {
  const std::string lines = "{\"text\": \"a\"}\n{\"text\": \"b\"}\n";
  for (const std::string& packed : {test::gzip(lines), test::zstd(lines)}) {
    const Text text = load_text(write(packed, "named.jsonl"), Join::jsonl);
    EXPECT_EQ(text.content, "a\n\nb");
    EXPECT_EQ(text.sha256, core::sha256(packed));
  }
  const std::string path = write(test::gzip("{\"text\": \"a\"}\n[]\n"));
  expect_format_error([&] { load_text(path, Join::jsonl); }, path + ": line 2", "");
  const std::string cut = write(test::zstd("text").substr(0, 9));
  expect_format_error([&] { load_text(cut, Join::raw); }, cut, "ends in the middle");
  const std::string empty = write(test::gzip(" "));
  expect_format_error([&] { load_text(empty, Join::raw); }, empty, "holds no text");
}

TEST_F(Corpus, ParquetIsRefusedWithTheCommandThatConvertsIt) {
  for (const std::string& bytes : {std::string("PAR1...."), test::gzip("PAR1....")}) {
    const std::string path = write(bytes, "it's.parquet");
    expect_format_error([&] { load_text(path, Join::raw); }, path, "pandas.read_parquet");
    expect_format_error([&] { load_text(path, Join::raw); }, path, core::quote_for_shell(path) + ".jsonl");
  }
}

TEST_F(Corpus, BadJsonLinesNameFileAndLine) {
  for (const std::string bad :
       {"[1]", "{\"txt\": \"a\"}", "{\"text\": 1}", "{\"text\": \"a\"", "\"a\"", "{\"text\": \"\xFF\"}"}) {
    const std::string path = write("{\"text\": \"a\"}\n\n" + bad + "\n");
    expect_format_error([&] { load_text(path, Join::jsonl); }, path + ": line 3", "");
  }
  const std::string path = write("{\"text\": \"a\"}\n" + std::string(1000000, '['));
  expect_format_error([&] { load_text(path, Join::jsonl); }, path + ": line 2", "deeper");
}

TEST_F(Corpus, TextsWithoutContentAreRefused) {
  for (const std::string content : {"", " \n\t\r\n", "\xC2\xA0\xE3\x80\x80"})
    for (const Join join : {Join::raw, Join::wikitext, Join::jsonl}) {
      const std::string path = write(content);
      expect_format_error([&] { load_text(path, join); }, path,
                          join == Join::jsonl && content.starts_with("\xC2") ? "" : "holds no text");
    }
  const std::string path = write("{\"text\": \"\"}\n{\"text\": \" \"}\n");
  expect_format_error([&] { load_text(path, Join::jsonl); }, path, "holds no text");
  EXPECT_THROW(load_text((directory_ / "absent").string(), Join::raw), core::StoreError);
}

TEST_F(Corpus, BosFollowsTheRule) {
  const Text text = text_of("ab");
  EXPECT_EQ(tokenize(ByteTokenizer(true, true), text, BosRule::automatic), (Ids{1000, 'a', 'b'}));
  EXPECT_EQ(tokenize(ByteTokenizer(true, false), text, BosRule::automatic), (Ids{'a', 'b'}));
  EXPECT_EQ(tokenize(ByteTokenizer(true, false), text, BosRule::always), (Ids{1000, 'a', 'b'}));
  EXPECT_EQ(tokenize(ByteTokenizer(true, true), text, BosRule::never), (Ids{'a', 'b'}));
  EXPECT_EQ(tokenize(ByteTokenizer(false, false), text, BosRule::automatic), (Ids{'a', 'b'}));
  EXPECT_THROW(tokenize(ByteTokenizer(false, false), text, BosRule::always), core::ConfigError);
}

TEST_F(Corpus, LeadingWindowsDropTheRest) {
  const Ids ids = {0, 1, 2, 3, 4, 5, 6, 7};
  const Windows all = leading_windows(ids, 3, -1, "t");
  EXPECT_EQ(all.count, 2);
  EXPECT_EQ(all.context, 3);
  EXPECT_EQ(all.ids, (Ids{0, 1, 2, 3, 4, 5}));
  EXPECT_EQ(leading_windows(ids, 4, -1, "t").count, 2);
  EXPECT_EQ(leading_windows(ids, 3, 1, "t").ids, (Ids{0, 1, 2}));
  EXPECT_EQ(leading_windows(ids, 3, 9, "t").count, 2);
  expect_format_error([&] { leading_windows(ids, 9, -1, "t"); }, "t", "8 tokens, less than one window of 9");
}

}  // namespace
}  // namespace voronoi::model
