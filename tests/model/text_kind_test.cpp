#include "model/text_kind.h"

#include <gmock/gmock.h>

#include "core/error.h"
#include "core/option.h"
#include "model/corpus.h"
#include "model/model_files.h"
#include "support/packed.h"

namespace voronoi::model {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing::StartsWith;

class TextKind : public ::testing::Test {
 protected:
  Text load(std::string_view content, const std::string& name = "t", std::optional<Join> join = std::nullopt) const {
    return load_text(folder_.write(name, content), join);
  }
  std::string refusal(std::string_view content, const std::string& name = "t",
                      std::optional<Join> join = std::nullopt) const {
    try {
      load(content, name, join);
    } catch (const core::FormatError& error) {
      EXPECT_THAT(error.what(), StartsWith(folder_.path() + "/" + name));
      return error.what();
    }
    return "accepted";
  }
  test::TemporaryFolder folder_;
};

/// Each character as `width` bytes, the lowest first or last.
std::string wide(std::string_view text, std::size_t width, bool lowest_first) {
  std::string out;
  for (const char c : text) {
    std::string unit(width, '\0');
    unit[lowest_first ? 0 : width - 1] = c;
    out += unit;
  }
  return out;
}

TEST_F(TextKind, ContainersAreRefusedWithTheCommandThatMakesTextOfThem) {
  using namespace std::string_view_literals;
  const std::vector<std::pair<std::string_view, std::string_view>> cases{{"PAR1....PAR1", "pandas.read_parquet"},
                                                                         {"ARROW1..", "pandas.read_feather"},
                                                                         {"\xFF\xFF\xFF\xFF\x10", "Dataset.from_file"},
                                                                         {"\xFD\x37zXZ\0\0"sv, "xz -dc"},
                                                                         {"BZh91AY&SY....", "bzip2 -dc"},
                                                                         {"\x04\x22\x4D\x18..", "lz4 -dc"},
                                                                         {"PK\x03\x04....", "unzip -p"},
                                                                         {"7z\xBC\xAF\x27\x1C..", "7z x"},
                                                                         {"%PDF-1.7", "pdftotext"}};
  for (const auto& [bytes, command] : cases) {
    EXPECT_THAT(refusal(bytes), HasSubstr(std::string(command)));
    EXPECT_THAT(refusal(test::gzip(std::string(bytes)), "t.gz"), HasSubstr(std::string(command)));
  }
  std::string tar(512, '\0');
  tar.replace(257, 5, "ustar");
  EXPECT_THAT(refusal(test::gzip(tar), "it's.tgz"),
              AllOf(HasSubstr("tar -xOf"), HasSubstr(core::quote_for_shell(folder_.path() + "/it's.tgz"))));
  EXPECT_EQ(load("BZhello, a word like bzip2's magic").join, Join::raw);
  EXPECT_THAT(refusal("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n"),
              HasSubstr("git lfs pull"));
}

TEST_F(TextKind, OtherEncodingsAreRefusedWithTheCommandThatConverts) {
  const std::string text = "Once upon a time there was a dog, and it was happy.\n";
  EXPECT_THAT(refusal("\xFF\xFE" + wide(text, 2, true)), HasSubstr("iconv -f UTF-16 -t UTF-8"));
  EXPECT_THAT(refusal(std::string("\xFF\xFE\0\0", 4) + wide(text, 4, true)), HasSubstr("iconv -f UTF-32 "));
  EXPECT_THAT(refusal(wide(text, 2, true)), HasSubstr("iconv -f UTF-16LE"));
  EXPECT_THAT(refusal(wide(text, 2, false)), HasSubstr("iconv -f UTF-16BE"));
  EXPECT_THAT(refusal(wide(text, 4, true)), HasSubstr("iconv -f UTF-32LE"));
  EXPECT_THAT(refusal(wide(text, 4, false)), HasSubstr("iconv -f UTF-32BE"));
  std::string latin, zeros;
  for (int i = 0; i < 100; ++i) {
    latin += "un chien g\xE9n\xE9reux. ";
    zeros += std::string("ab\0cdefg", 8);
  }
  EXPECT_THAT(refusal(latin), AllOf(HasSubstr("200 places"), HasSubstr("first at byte 10"), HasSubstr("iconv")));
  EXPECT_THAT(refusal(latin, "t", Join::raw), HasSubstr("iconv")) << "asked for as raw it is no better";
  EXPECT_THAT(refusal(zeros), HasSubstr("100 of its 800 bytes are zero"));
}

TEST_F(TextKind, AFewBadPlacesAreSaidAndKept) {
  std::string text(20000, 'a');
  text[7] = '\xFF';
  testing::internal::CaptureStderr();
  EXPECT_EQ(load(text).content, text);
  EXPECT_EQ(load(text).content, text);
  const std::string said = testing::internal::GetCapturedStderr();
  EXPECT_THAT(said, AllOf(HasSubstr("1 place(s) are not UTF-8"), HasSubstr("byte 7")));
  EXPECT_EQ(said.find("warning"), said.rfind("warning")) << "once a file: " << said;
}

TEST_F(TextKind, AByteOrderMarkIsNoToken) {
  const std::string mark = "\xEF\xBB\xBF";
  EXPECT_EQ(load(mark + "a\nb").content, "a\nb");
  EXPECT_EQ(load(mark + "a\nb", "t", Join::wikitext).content, "a\n\n\nb");
  EXPECT_EQ(load(mark + "{\"text\": \"a\"}\n").content, "a");
  EXPECT_EQ(load(test::gzip(mark + "a"), "t.gz").content, "a");
}

TEST_F(TextKind, CarriageReturnsAreSaid) {
  testing::internal::CaptureStderr();
  EXPECT_EQ(load("a\r\nb\r\n").content, "a\r\nb\r\n");
  EXPECT_THAT(testing::internal::GetCapturedStderr(), HasSubstr("dos2unix"));
}

TEST_F(TextKind, DocumentsAreFoundUnderAnyName) {
  const std::string lines = "{\"text\": \"a\", \"url\": 1}\r\n\n {\"content\": \"b\"}\n";
  const std::string array = " [ {\"text\": \"a]\\\"}\"} ,\n{\"id\": [1, {}], \"content\": \"b\"}\n] \n";
  for (const char* name : {"c4.json", "t", "t.txt", "t.ndjson", "t.jsonl"}) {
    const Text text = load(lines, name);
    EXPECT_EQ(text.join, Join::jsonl);
    EXPECT_EQ(text.content, "a\n\nb");
    EXPECT_EQ(load(array, name).content, "a]\"}\n\nb");
    EXPECT_EQ(load(array, name, Join::jsonl).content, "a]\"}\n\nb");
    EXPECT_EQ(load(test::zstd(lines), std::string(name) + ".zst").content, "a\n\nb");
  }
  EXPECT_EQ(load(lines, "t", Join::raw).content, lines) << "asked for as it is";
}

TEST_F(TextKind, JsonWithoutDocumentsIsRefused) {
  EXPECT_THAT(refusal("{\"prompt\": \"a\", \"answer\": \"b\"}\n", "t.txt"),
              AllOf(HasSubstr("its keys: prompt, answer"), HasSubstr("jq -c '{text: .FIELD}'")));
  EXPECT_THAT(refusal("[{\"prompt\": \"a\"}]", "t.txt"), HasSubstr("jq -c '.[] | {text: .FIELD}'"));
  EXPECT_THAT(refusal("{\n \"text\": \"a\"\n}\n", "t.txt"), HasSubstr("jq -c ."));
  EXPECT_THAT(refusal("{\"text\": null}\n"), HasSubstr("line 1"));
  EXPECT_THAT(refusal("some prose", "t.json"), HasSubstr("line 1"));
}

TEST_F(TextKind, TextThatBeginsLikeJsonIsText) {
  for (const char* text : {"[[Category:Dogs]] a dog", "{{Infobox}}", "[", "{", "[]", "[1, 2]", "{'text': 'a'}", "[{x"})
    EXPECT_EQ(load(text, "t.txt").join, Join::raw) << text;
}

TEST_F(TextKind, DamagedArraysNameTheElement) {
  const std::string good = "[{\"text\": \"a\"}, ";
  EXPECT_THAT(refusal(good + "{\"text\": 1}]"), HasSubstr("element 2"));
  EXPECT_THAT(refusal(good + "{\"text\": \"b"), AllOf(HasSubstr("element 2"), HasSubstr("does not end")));
  EXPECT_THAT(refusal(good + "7]"), AllOf(HasSubstr("element 2"), HasSubstr("no JSON object")));
  EXPECT_THAT(refusal(good), HasSubstr("element 2"));
  EXPECT_THAT(refusal("[{\"text\": \"a\"} {\"text\": \"b\"}]"), HasSubstr("element 1"));
  EXPECT_THAT(refusal("[{\"text\": \"a\"}] x"), HasSubstr("behind the end"));
}

}  // namespace
}  // namespace voronoi::model
