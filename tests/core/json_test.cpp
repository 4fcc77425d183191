#include "core/json.h"

#include <gmock/gmock.h>

#include <array>
#include <limits>
#include <string>

#include "core/error.h"

namespace voronoi::core {
namespace {

using testing::HasSubstr;

/// What the parser says of a text it must refuse; empty when it accepts it.
std::string refusal(const std::string& text) {
  try {
    parse_json(text, "file.json");
  } catch (const FormatError& error) {
    return error.what();
  }
  return "";
}

TEST(Json, BuildsEveryKindOfValueInTheOrderOfTheText) {
  const Json json = parse_json(
      R"( {"z": [1, -2, 2.5, true, null, "x"], "a": {"é": "\ud83d\ude00\u0000"}, "m": 18446744073709551615} )",
      "file.json");
  EXPECT_EQ(json.dump(), "{\"z\":[1,-2,2.5,true,null,\"x\"],\"a\":{\"é\":\"😀\\u0000\"},\"m\":18446744073709551615}");
  EXPECT_TRUE(json["z"][0].is_number_unsigned());
  EXPECT_TRUE(json["z"][1].is_number_integer());
  EXPECT_TRUE(json["z"][2].is_number_float());
  EXPECT_EQ(parse_json("7", "file.json"), 7);
}

TEST(Json, RefusesWhatIsNotJsonNamingFileAndByte) {
  for (const std::string text : {"",
                                 " ",
                                 "{",
                                 "[1,]",
                                 "{\"a\":1,}",
                                 "{} }",
                                 "[1] x",
                                 "NaN",
                                 "[Infinity]",
                                 "[-Infinity]",
                                 "[1e999]",
                                 "'a'",
                                 "{a:1}",
                                 "[01]",
                                 "// c\n1",
                                 "[\"\\ud800\"]",
                                 "[\"\\udc00\\ud800\"]",
                                 "[\"\xFF\xFE\"]",
                                 "[\"\xC0\xAF\"]",
                                 "[\"\xED\xA0\x80\"]",
                                 "[\"a\nb\"]",
                                 "\xEF\xBB\xBF{}"}) {
    SCOPED_TRACE(text);
    EXPECT_THAT(refusal(text), HasSubstr("file.json: byte "));
  }
}

TEST(Json, RefusesAKeyThatStandsTwiceInOneObject) {
  EXPECT_THAT(refusal(R"({"b": 1, "a": {"k": 1, "j": 2, "k": 1}})"), HasSubstr("key \"k\" stands twice"));
  EXPECT_THAT(refusal(R"({"a": 1, "\u0061": 2})"), HasSubstr("key \"a\" stands twice"));
  EXPECT_EQ(refusal(R"({"a": {"a": 1}, "b": {"a": 1}})"), "");
}

TEST(Json, BoundsNesting) {
  EXPECT_EQ(refusal(std::string(100, '[') + std::string(100, ']')), "");
  EXPECT_THAT(refusal(std::string(101, '[') + std::string(101, ']')), HasSubstr("deeper than 100"));
  std::string objects;
  for (int i = 0; i < 1'000'000; ++i) objects += "{\"a\":";
  for (const std::string& text :
       {std::string(1'000'000, '['), std::string(1'000'000, '[') + std::string(1'000'000, ']'), objects})
    EXPECT_THAT(refusal(text), HasSubstr("deeper than 100"));
  EXPECT_THROW(parse_json("[[[1]]]", "file.json", 2), FormatError);
}

TEST(Json, BuildsAnObjectOfManyKeys) {
  std::string text = "{";
  for (int i = 0; i < 200'000; ++i) text += (i ? ",\"" : "\"") + std::to_string(i) + "\":" + std::to_string(i);
  const Json json = parse_json(text + "}", "file.json");
  ASSERT_EQ(json.size(), 200'000U);
  int expected = 0;
  for (const auto& [key, value] : json.items()) {
    ASSERT_EQ(value, expected);
    ASSERT_EQ(key, std::to_string(expected++));
  }
}

TEST(Json, KeepsMessagesShortAndPrintable) {
  const std::string message = refusal("[\"" + std::string(100'000, 'x'));
  EXPECT_THAT(message, HasSubstr("file.json: byte "));
  EXPECT_LT(message.size(), 400U);
  EXPECT_EQ(refusal("[\"a\xFF\"]").find('\xFF'), std::string::npos);
}

TEST(QuoteText, EscapesControlCharactersAndInvalidBytesAndCuts) {
  EXPECT_EQ(quote_text(std::string_view("a\0b\n\x7F", 5)), "\"a\\x00b\\x0a\\x7f\"");
  EXPECT_EQ(quote_text("é😀"), "\"é😀\"");
  EXPECT_EQ(quote_text("\xFF\xC0\xAF\xED\xA0\x80\xF4\x90\x80\x80 \xC3"),
            "\"\\xff\\xc0\\xaf\\xed\\xa0\\x80\\xf4\\x90\\x80\\x80 \\xc3\"");
  EXPECT_EQ(quote_text(std::string(121, 'x')), "\"" + std::string(120, 'x') + "...\"");
}

TEST(Json, WholeNumbersAreNeverConverted) {
  EXPECT_EQ(whole_number(parse_json("-7", "f")), -7);
  EXPECT_EQ(whole_number(parse_json("9223372036854775807", "f")), std::numeric_limits<std::int64_t>::max());
  for (const char* text : {"1e300", "1.0", "9223372036854775808", "\"1\"", "null"})
    EXPECT_THROW(whole_number(parse_json(text, "f")), Json::exception) << text;
  EXPECT_EQ(whole_number_or(parse_json("{\"a\": 1}", "f"), "b", 5), 5);
}

}  // namespace
}  // namespace voronoi::core
