// Templates and filters of tasks.
#include "validation/text_filter.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/error.h"

namespace voronoi::validation {
namespace {

using testing::HasSubstr, testing::ThrowsMessage;

std::string filtered(const core::Json& steps, const std::string& text) {
  return TextFilter(steps, "task")(text, "rows: line 3");
}

TEST(TextFilter, StepsAreThoseOfPython) {
  EXPECT_EQ(filtered("strip", "\t a b\x1F\xC2\xA0\n"), "a b");
  EXPECT_EQ(filtered("strip", "\xE3\x80\x80"), "");
  EXPECT_EQ(filtered("capitalise", "heLLO \xC3\x84X"), "Hello \xC3\xA4x");
  EXPECT_EQ(filtered("capitalise", "\xC3\xA9T"), "\xC3\x89t");
  EXPECT_EQ(filtered("capitalise", ""), "");
  // From left to right, what was put in is not looked at again.
  EXPECT_EQ(filtered({{"replace", {"  ", " "}}}, "a     b"), "a   b");
  EXPECT_EQ(filtered({{"replace", {"aa", "a"}}}, "aaaaa"), "aaa");
  EXPECT_EQ(filtered({{"replace", {"x", ""}}}, "xaxx"), "a");
  // \[.*?\] deleted.
  EXPECT_EQ(filtered({{"cut", {"[", "]"}}}, "a[b]c]d[[e]]f[g"), "ac]d]f[g");
  EXPECT_EQ(filtered({{"cut", {"[", "]"}}}, "a[b\nc]d[e]f"), "a[b\nc]df");
  EXPECT_EQ(filtered({{"before", "_"}}, "a_b_c"), "a");
  EXPECT_EQ(filtered(core::Json::array({{{"after", "_"}}, "strip"}), "a_ b_c "), "b_c");
  EXPECT_THAT(
      [] {
        filtered({{"after", "_"}}, "none");
      },
      ThrowsMessage<core::FormatError>(testing::AllOf(HasSubstr("rows: line 3"), HasSubstr("\"_\""))));
  for (const core::Json& wrong :
       {core::Json("other"), core::Json(3), core::Json{{"replace", "a"}}, core::Json{{"replace", {"", "a"}}},
        core::Json{{"cut", {"[", ""}}}, core::Json{{"before", ""}}, core::Json{{"before", "a"}, {"after", "b"}}})
    EXPECT_THAT([&] { filtered(wrong, "a"); }, ThrowsMessage<core::FormatError>(HasSubstr("task: the filter step")))
        << wrong;
}

TEST(TextTemplate, PlacesAreFilledFromTheRow) {
  const TextFilters filters{{"first", TextFilter({{"before", " "}}, "task")}};
  const core::Json row =
      core::Json::parse(R"({"a": "x y", "n": 3, "b": true, "in": {"deep": "z"}, "list": ["p q", "r s"],
                                             "null": null})");
  const auto fill = [&](const std::string& text) {
    return TextTemplate(text, filters, "task").fill(row, {}, "rows: line 3");
  };
  EXPECT_EQ(fill("<{a}|{a|first}|{n}{b}{in.deep}>"), "<x y|x|3truez>");
  EXPECT_EQ(fill("{{{a|first|capitalise}}}"), "{X}");
  EXPECT_EQ(fill(""), "");
  EXPECT_EQ(TextTemplate("{choice} of {a}", filters, "task").fill(row, {{"choice", "C"}}, "p"), "C of x y");
  EXPECT_THAT(TextTemplate("{list|first}", filters, "task").fill_each(row, "p"), testing::ElementsAre("p", "r"));
  for (const char* missing : {"{c}", "{in.other}", "{a.b}", "{list}", "{null}", "{in}"})
    EXPECT_THAT([&] { fill(missing); }, ThrowsMessage<core::FormatError>(HasSubstr("rows: line 3"))) << missing;
  EXPECT_THROW(TextTemplate("{a}", filters, "task").fill_each(row, "p"), core::FormatError);
  for (const char* wrong : {"{a", "a}", "{}", "{a|unknown}", "{a|}"})
    EXPECT_THAT([&] { fill(wrong); }, ThrowsMessage<core::FormatError>(HasSubstr("task: the template"))) << wrong;
}

TEST(TextTemplate, CharactersAreCodePoints) { EXPECT_EQ(count_characters("a\xC3\xA9\xF0\x9F\x98\x80 "), 4); }

}  // namespace
}  // namespace voronoi::validation
