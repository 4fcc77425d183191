// Texts as requests, and files of requests.
#include "validation/request_encoder.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/error.h"
#include "support/byte_tokenizer.h"
#include "validation/requests_file.h"

namespace voronoi::validation {
namespace {

using testing::ElementsAre, testing::HasSubstr, testing::ThrowsMessage;
using Ids = std::vector<std::int32_t>;

Ids bytes(const std::string& text) { return test::byte_tokenizer().encode(text); }

model::ModelConfig config_of(const std::string& type) {
  model::ModelConfig config;
  config.model_type = type;
  return config;
}

/// Joins "ab" to one token and has a BOS.
class JoiningTokenizer : public model::Tokenizer {
 public:
  Ids encode(std::string_view text) const override {
    Ids ids;
    for (std::size_t at = 0; at < text.size(); ++at) {
      const bool joined = text.substr(at, 2) == "ab";
      ids.push_back(joined ? 300 : text[at]);
      at += joined ? 1 : 0;
    }
    return ids;
  }
  std::string decode(std::span<const std::int32_t>) const override { return {}; }
  std::int64_t vocab_size() const override { return 302; }
  std::optional<std::int32_t> bos_id() const override { return 301; }
  std::optional<std::int32_t> automatic_bos() const override { return 301; }
};

TEST(RequestEncoder, CutsTheWholeByTheLengthOfTheContext) {
  RequestEncoder plain(test::byte_tokenizer(), config_of("llama"), model::BosRule::automatic);
  LikelihoodRequest request = plain.encode("r", "one", " two");
  EXPECT_EQ(request.context, bytes("one"));
  EXPECT_EQ(request.continuation, bytes(" two"));
  request = plain.encode("r", "one \n", "two");  // white space moves over
  EXPECT_EQ(request.context, bytes("one"));
  EXPECT_EQ(request.continuation, bytes(" \ntwo"));
  EXPECT_THAT([&] { plain.encode("rows: line 3", "", "two"); },
              ThrowsMessage<core::FormatError>(HasSubstr("rows: line 3")));

  const JoiningTokenizer tokenizer;
  RequestEncoder joining(tokenizer, config_of("llama"), model::BosRule::automatic);
  EXPECT_EQ(joining.bos(), "none");  // whatever the tokenizer does by itself
  request = joining.encode("r", "xa", "bc");
  EXPECT_THAT(request.context, ElementsAre('x', 'a'));
  EXPECT_THAT(request.continuation, ElementsAre('c'));
  request = joining.encode("r", "", "ab");
  EXPECT_THAT(request.context, ElementsAre(301));
  EXPECT_THAT(request.continuation, ElementsAre(300));
  EXPECT_THAT(joining.encode("r", " ", "a").continuation, ElementsAre(' ', 'a'));

  RequestEncoder gemma(tokenizer, config_of("gemma2"), model::BosRule::automatic);
  EXPECT_EQ(gemma.bos(), "301");
  request = gemma.encode("r", "x", "y");
  EXPECT_THAT(request.context, ElementsAre(301, 'x'));
  EXPECT_THAT(request.continuation, ElementsAre('y'));
  EXPECT_EQ(RequestEncoder(tokenizer, config_of("gemma2"), model::BosRule::never).bos(), "none");
  EXPECT_EQ(RequestEncoder(tokenizer, config_of("llama"), model::BosRule::always).bos(), "301");
  EXPECT_THROW(RequestEncoder(test::byte_tokenizer(), config_of("llama"), model::BosRule::always), core::ConfigError);

  model::ModelConfig ending = config_of("llama");
  ending.end_ids = {2, 3};
  EXPECT_THAT(RequestEncoder(test::byte_tokenizer(), ending, model::BosRule::automatic).encode("r", "", "x").context,
              ElementsAre(2));
}

TEST(RequestEncoder, RollsOverATextInWindows) {
  const JoiningTokenizer tokenizer;
  const RequestEncoder encoder(tokenizer, config_of("llama"), model::BosRule::automatic);
  // get_rolling_token_windows(list("1234567890"), BOS, 4, 1) of the harness, made disjoint.
  const std::vector<LikelihoodRequest> windows = encoder.rolling("r", "1234567890", 4);
  ASSERT_EQ(windows.size(), 3);
  EXPECT_THAT(windows[0].context, ElementsAre(301));
  EXPECT_EQ(windows[0].continuation, bytes("1234"));
  EXPECT_EQ(windows[1].context, bytes("4"));
  EXPECT_EQ(windows[1].continuation, bytes("5678"));
  EXPECT_EQ(windows[2].context, bytes("678"));
  EXPECT_EQ(windows[2].continuation, bytes("90"));
  EXPECT_EQ(encoder.rolling("r", "1", 4).size(), 1);
  EXPECT_THROW(encoder.rolling("r", "", 4), core::FormatError);
}

TEST(RequestsFile, ReadsThreeKindsOfLines) {
  const std::vector<RequestLine> lines = parse_requests(
      "{\"context\": \"a\", \"continuation\": \" b\", \"more\": 1}\n\n{\"context_ids\": [1, 2], \"continuation_ids\": "
      "[3]}\r\n{\"text\": \"c\"}",
      "F");
  ASSERT_EQ(lines.size(), 3);
  EXPECT_EQ(lines[0].context, "a");
  EXPECT_EQ(lines[0].continuation, " b");
  EXPECT_EQ(lines[1].kind, RequestLine::Kind::ids);
  EXPECT_THAT(lines[1].ids.context, ElementsAre(1, 2));
  EXPECT_EQ(lines[1].place, "F: line 3");
  EXPECT_EQ(lines[2].kind, RequestLine::Kind::text);
  for (const char* wrong :
       {"{", "[]", "3", "{}", "{\"context\": \"a\"}", "{\"context\": \"a\", \"continuation\": 3}",
        "{\"context_ids\": [1.5], \"continuation_ids\": [1]}", "{\"context_ids\": [-1], \"continuation_ids\": [1]}",
        "{\"context_ids\": 1, \"continuation_ids\": [1]}",
        "{\"context_ids\": [99999999999999999999], \"continuation_ids\": [1]}",
        "{\"context_ids\": [18446744073709551615], \"continuation_ids\": [1]}", "{\"text\": \"\xFF\"}"})
    EXPECT_THAT([&] { parse_requests(std::string("{\"text\": \"a\"}\n") + wrong, "F"); },
                ThrowsMessage<core::FormatError>(HasSubstr("F: line 2")))
        << wrong;
  EXPECT_THAT([] { parse_requests(" \n", "F"); }, ThrowsMessage<core::FormatError>(HasSubstr("F: holds no requests")));
  EXPECT_EQ(answers_text(std::vector<RequestAnswer>{{{-1.5, true}, 2}, {{-0.1, false}, 1}}),
            "{\"loglikelihood\":-1.5,\"is_greedy\":true,\"tokens\":2}\n{\"loglikelihood\":-0.1,\"is_greedy\":false,"
            "\"tokens\":1}\n");
}

}  // namespace
}  // namespace voronoi::validation
