#include "model/calibration_windows.h"

#include <gmock/gmock.h>

#include <algorithm>
#include <array>

#include "core/error.h"

namespace voronoi::model {
namespace {

using testing::HasSubstr;
using testing::StartsWith;
using Ids = std::vector<std::int32_t>;

/// A byte is an id; BOS, where it is put, is 1000.
class Bytes : public Tokenizer {
 public:
  explicit Bytes(bool adds_bos = false) : adds_bos_(adds_bos) {}
  Ids encode(std::string_view text) const override {
    Ids ids;
    for (const char c : text) ids.push_back(static_cast<unsigned char>(c));
    return ids;
  }
  std::string decode(std::span<const std::int32_t> ids) const override { return {ids.begin(), ids.end()}; }
  std::int64_t vocab_size() const override { return 1001; }
  std::optional<std::int32_t> automatic_bos() const override { return adds_bos_ ? std::optional(1000) : std::nullopt; }

 private:
  bool adds_bos_;
};

Text text(std::string content, std::string path = "t") { return {std::move(path), "", Join::raw, std::move(content)}; }

std::string counting(int n) {
  std::string out;
  for (int i = 0; i < n; ++i) out += static_cast<char>(i);
  return out;
}

template <class Call>
std::string refused_by(const Call& call) {
  try {
    call();
  } catch (const core::FormatError& error) {
    return error.what();
  }
  return "no error";
}

TEST(CalibrationWindows, SpreadOverTheText) {
  const CalibrationWindows made = calibration_windows(Bytes(), {text(counting(100))}, {4, 10, {}});
  EXPECT_EQ(made.windows.count, 4);
  ASSERT_EQ(made.windows.ids.size(), 40U);
  for (std::size_t w = 0; w < 4; ++w)
    for (std::size_t i = 0; i < 10; ++i)
      EXPECT_EQ(made.windows.ids[10 * w + i], static_cast<std::int32_t>(30 * w + i))
          << "from 0 to the last possible start, 90";
  ASSERT_EQ(made.shares.size(), 1U);
  EXPECT_EQ(made.shares[0].text_tokens, 100);
  EXPECT_EQ(made.shares[0].windows, 4);
  EXPECT_EQ(made.shares[0].duplicates, 0);
  // Shorter than all windows together: they overlap, a token apart at least.
  EXPECT_EQ(calibration_windows(Bytes(), {text("abcdef")}, {3, 4, {}}).windows.ids,
            (Ids{'a', 'b', 'c', 'd', 'b', 'c', 'd', 'e', 'c', 'd', 'e', 'f'}));
}

TEST(CalibrationWindows, ATextThatIsTooShortIsNamedWithWhatItGives) {
  const auto refused = [](std::string content, std::int64_t n) {
    return refused_by([&] { calibration_windows(Bytes(), {text(std::move(content), "short.txt")}, {n, 4, {}}); });
  };
  EXPECT_THAT(refused("abcdef", 4), StartsWith("short.txt"));
  EXPECT_THAT(refused("abcdef", 4), HasSubstr("gives 6 tokens, too few for 4 calibration windows of 4"));
  EXPECT_THAT(refused("abcdef", 4), HasSubstr("(a token apart they are 3)"));
  EXPECT_THAT(refused("abc", 1), HasSubstr("gives 3 tokens"));
  EXPECT_THAT(refused_by([] {
                calibration_windows(Bytes(), {text(counting(50)), text("abcdef", "short.txt")}, {8, 4, {1000, 3000}});
              }),
              HasSubstr("6 calibration windows of 4 tokens (a token apart they are 3); add text, or ask for fewer or "
                        "shorter sequences, or give it a smaller weight"));
}

TEST(CalibrationWindows, AreSharedByWeights) {
  const std::vector<Text> texts{text(counting(60).substr(1)), text(std::string("b") + counting(90)),
                                text(std::string("c") + counting(120))};
  const auto windows_of = [&](std::vector<std::int64_t> weights) {
    std::vector<std::int64_t> counts;
    for (const TextShare& share : calibration_windows(Bytes(), texts, {7, 2, std::move(weights)}).shares)
      counts.push_back(share.windows);
    return counts;
  };
  // Alike: 7/3 each, the first takes the remainder.
  EXPECT_EQ(windows_of({}), (std::vector<std::int64_t>{3, 2, 2}));
  EXPECT_EQ(windows_of({500, 500, 500}), windows_of({}));
  // 7 (2, 1, 0.5) / 3.5 = 4, 2, 1.
  EXPECT_EQ(windows_of({2000, 1000, 500}), (std::vector<std::int64_t>{4, 2, 1}));
}

TEST(CalibrationWindows, SharesAreExact) {
  // Quotas 3.5, 3.5, 3: the largest parts that are left take what is left, the first of equal ones.
  EXPECT_EQ(apportion(10, {35, 35, 30}), (std::vector<std::int64_t>{4, 3, 3}));
  // Quotas 1.2, 2.4, 8.4.
  EXPECT_EQ(apportion(12, {100, 200, 700}), (std::vector<std::int64_t>{1, 3, 8}));
  EXPECT_EQ(apportion(1, {1, 1000}), (std::vector<std::int64_t>{0, 1}));
  const std::vector<std::int64_t> many = apportion((1 << 24) - 1, std::vector<std::int64_t>(1000, 1'000'000'000));
  EXPECT_EQ(many.front(), 16778);
  EXPECT_EQ(many.back(), 16777);
}

TEST(CalibrationWindows, WeightsAreNumbersOfThreeDecimals) {
  std::vector<std::int64_t> weights;
  EXPECT_EQ(parse_weights("2,1,0.5", weights), "");
  EXPECT_EQ(weights, (std::vector<std::int64_t>{2000, 1000, 500}));
  EXPECT_EQ(parse_weights("0.001,1000000", weights), "");
  EXPECT_EQ(weights, (std::vector<std::int64_t>{1, 1'000'000'000}));
  for (const char* wrong : {"0", "1,", "-1", "1e3", "0.0001", "1000000.001", "1000001", "a", "1.", "nan", "1,,2", "+1"})
    EXPECT_THAT(parse_weights(wrong, weights), HasSubstr("must be numbers")) << wrong;
  EXPECT_NE(parse_weights("", weights), "");
}

TEST(CalibrationWindows, WindowsWithTheTokensOfOneBeforeAreLeftOut) {
  // Windows of 4 at 0, 4, 8 and 12: abcd, abcd, efgh, abcd; and the second text begins with efgh.
  const std::vector<Text> texts{text("abcdabcdefghabcd"), text("efgh....wxyz")};
  const CalibrationWindows made = calibration_windows(Bytes(), texts, {6, 4, {2000, 1000}});
  EXPECT_EQ(made.windows.count, 3);
  EXPECT_EQ(Bytes().decode(made.windows.ids), "abcdefghwxyz");
  EXPECT_EQ(made.shares[0].windows, 2);
  EXPECT_EQ(made.shares[0].duplicates, 2);
  EXPECT_EQ(made.shares[1].windows, 1);
  EXPECT_EQ(made.shares[1].duplicates, 1);
  const CalibrationWindows all = calibration_windows(Bytes(), texts, {6, 4, {2000, 1000}, true});
  EXPECT_EQ(Bytes().decode(all.windows.ids), "abcdabcdefghabcdefghwxyz");
  EXPECT_EQ(all.shares[0].duplicates + all.shares[1].duplicates, 0);
}

TEST(CalibrationWindows, BosReplacesFirstTokens) {
  EXPECT_EQ(calibration_windows(Bytes(true), {text("abcdef")}, {2, 3, {}}).windows.ids,
            (Ids{1000, 'b', 'c', 1000, 'e', 'f'}));
  // What differs in the token that it replaces is the same.
  EXPECT_EQ(calibration_windows(Bytes(true), {text("xbcybc")}, {2, 3, {}}).windows.ids, (Ids{1000, 'b', 'c'}));
}

TEST(CalibrationWindows, DocumentMarksAreDropped) {
  const std::string marked = "<doc id=\"1\" title=\"x\">\nab\n</doc>\r\n<doc id=\"2\">\nc <doc > d\n</doc>";
  EXPECT_EQ(Bytes().decode(calibration_windows(Bytes(), {text(marked)}, {1, 13, {}}).windows.ids), "ab\nc <doc > d");
}

TEST(DisjointWindows, AreWholeAndSpread) {
  // 100 tokens hold ten windows of 10; four of them start at the first, third, sixth and eighth.
  const Windows windows = disjoint_windows(Bytes(), {text(counting(100))}, 40, 10);
  EXPECT_EQ(windows.count, 4);
  for (std::size_t w = 0; w < 4; ++w)
    for (std::size_t i = 0; i < 10; ++i)
      EXPECT_EQ(windows.ids[10 * w + i], (std::array{0, 20, 50, 70}.at(w) + static_cast<std::int32_t>(i)));
  EXPECT_EQ(disjoint_windows(Bytes(), {text(counting(100))}, 31, 10).count, 4);
  EXPECT_EQ(disjoint_windows(Bytes(), {text(counting(99))}, 0, 10).count, 9);
}

TEST(DisjointWindows, ATextThatIsShortGivesAllItHas) {
  const std::vector<Text> texts{text(std::string(7, 'a')), text(std::string(50, 'b'))};
  const Windows windows = disjoint_windows(Bytes(), texts, 20, 2);
  EXPECT_EQ(windows.count, 10);
  EXPECT_EQ(std::count(windows.ids.begin(), windows.ids.end(), 'a'), 6);
  EXPECT_THROW(disjoint_windows(Bytes(), texts, 58, 2), core::ConfigError);
  EXPECT_THAT(refused_by([] { disjoint_windows(Bytes(), {text("abc", "short.txt")}, 4, 4); }),
              HasSubstr("3 tokens, less than one window of 4"));
}

}  // namespace
}  // namespace voronoi::model
