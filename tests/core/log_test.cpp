#include "core/log.h"

#include <gmock/gmock.h>

#include <algorithm>
#include <limits>

#include "core/error.h"
#include "core/json.h"
#include "support/temporary.h"

namespace voronoi::core {
namespace {

using testing::HasSubstr;
using testing::Not;

/// What `body` prints on stderr.
template <class Body>
std::string printed(Body&& body) {
  testing::internal::CaptureStderr();
  body();
  return testing::internal::GetCapturedStderr();
}

class Log : public testing::Test {
 protected:
  void TearDown() override {
    configure_log(-1, LogLevel::info);
    set_log_format(LogFormat::text);
  }
};

TEST_F(Log, LinesOfOneProcessHaveNoPrefix) {
  configure_log(-1, LogLevel::info);
  EXPECT_EQ(printed([] { log_info("layer {} of {}", 3, 7); }), "layer 3 of 7\n");
  EXPECT_EQ(printed([] { log_warning("slow"); }), "warning: slow\n");
  EXPECT_EQ(printed([] { log_error("broken"); }), "error: broken\n");
  EXPECT_EQ(printed([] { log_debug("detail"); }), "");
}

TEST_F(Log, LevelsAreKept) {
  configure_log(-1, LogLevel::debug);
  EXPECT_EQ(printed([] { log_debug("detail"); }), "detail\n");
  configure_log(-1, LogLevel::error);
  EXPECT_EQ(printed([] { log_warning("slow"); }), "");
  EXPECT_EQ(printed([] { log_error("broken"); }), "error: broken\n");
}

TEST_F(Log, OtherRanksShowOnlyWarningsAndErrors) {
  configure_log(3, LogLevel::debug);
  EXPECT_EQ(printed([] { log_info("usual"); }), "");
  EXPECT_EQ(printed([] { log_warning("slow"); }), "rank 3: warning: slow\n");
  EXPECT_EQ(printed([] { log_error("broken"); }), "rank 3: error: broken\n");
  configure_log(0, LogLevel::info);
  EXPECT_EQ(printed([] { log_info("usual"); }), "usual\n");
}

TEST_F(Log, BracesInAMessageAreText) {
  EXPECT_EQ(printed([] { log_line(LogLevel::info, "{} {0} %v {{"); }), "{} {0} %v {{\n");
}

TEST_F(Log, FileGetsEverythingAndIsAppendedTo) {
  const test::TemporaryFolder folder;
  const auto path = folder / "rank_1.log";
  test::write_bytes(path, "before\n");
  configure_log(1, LogLevel::error);
  log_to_file(path);
  EXPECT_EQ(printed([] {
              log_debug("detail {}", 1);
              log_line(LogLevel::warning, "{braces}");
            }),
            "");
  const std::string text = test::read_bytes(path);
  EXPECT_THAT(text, testing::StartsWith("before\n"));
  EXPECT_THAT(text,
              testing::AllOf(HasSubstr("debug detail 1\n"), HasSubstr("warning {braces}\n"), Not(HasSubstr("\033"))));
}

TEST_F(Log, JsonLinesParseWhateverTheMessage) {
  const test::TemporaryFolder folder;
  configure_log(3, LogLevel::info);
  set_log_format(LogFormat::json);
  log_to_file(folder / "rank_3.log");
  const std::string text = printed([] { log_warning("a \"b\"\n{}", "\xff"); });
  ASSERT_EQ(std::count(text.begin(), text.end(), '\n'), 1) << text;
  const Json line = parse_json(text, "line");
  EXPECT_EQ(line.at("level"), "warning");
  EXPECT_EQ(line.at("rank"), 3);
  EXPECT_EQ(line.at("message"), "a \"b\"\n\xef\xbf\xbd");
  EXPECT_THAT(line.at("time").get<std::string>(), testing::MatchesRegex("....-..-..T..:..:..[.]...Z"));
  const Json kept = parse_json(test::read_bytes(folder / "rank_3.log"), "file");
  EXPECT_EQ(kept.at("message"), line.at("message"));
  configure_log(0, LogLevel::info);
  EXPECT_EQ(parse_json(printed([] { show_progress("all done", true); }), "progress").at("message"), "all done");
}

TEST_F(Log, AFileThatCannotBeOpenedIsWarnedOfAndNotMissed) {
  EXPECT_EQ(printed([] {
              log_to_file("/dev/null/x.log");
              log_info("work");
            }),
            "warning: no log file: Failed opening file /dev/null/x.log for writing: Not a directory; the work goes "
            "on\nwork\n");
}

TEST_F(Log, AFileThatCannotBeWrittenIsWarnedOfOnce) {
  EXPECT_EQ(
      printed([] {
        log_to_file("/dev/full");
        log_info("one");
        log_info("two");
      }),
      "warning: no log file: Failed flush to file /dev/full: No space left on device; the work goes on\none\ntwo\n");
}

TEST_F(Log, ProgressWithoutATerminalIsPlainAndRare) {
  const std::string text = printed([] {
    for (int i = 0; i < 1000; ++i) show_progress("working " + std::to_string(i));
    show_progress("all done", true);
  });
  EXPECT_THAT(text, HasSubstr("all done\n"));
  EXPECT_THAT(text, Not(HasSubstr("\r")));
  EXPECT_LE(std::count(text.begin(), text.end(), '\n'), 3);
  configure_log(-1, LogLevel::warning);
  EXPECT_EQ(printed([] { show_progress("quiet", true); }), "");
}

TEST(FormatDuration, UsesTwoUnits) {
  EXPECT_EQ(format_duration(0), "0.0 s");
  EXPECT_EQ(format_duration(4.24), "4.2 s");
  EXPECT_EQ(format_duration(59.94), "59.9 s");
  EXPECT_EQ(format_duration(59.96), "1 min 00 s");
  EXPECT_EQ(format_duration(185), "3 min 05 s");
  EXPECT_EQ(format_duration(3599.4), "59 min 59 s");
  EXPECT_EQ(format_duration(3599.6), "1 h 00 min");
  EXPECT_EQ(format_duration(3720), "1 h 02 min");
  EXPECT_EQ(format_duration(360000), "100 h 00 min");
  EXPECT_EQ(format_duration(std::numeric_limits<double>::infinity()), "unknown");
  EXPECT_EQ(format_duration(std::numeric_limits<double>::quiet_NaN()), "unknown");
}

TEST(FormatBytes, UsesBinaryUnits) {
  EXPECT_EQ(format_bytes(0), "0 B");
  EXPECT_EQ(format_bytes(1023), "1023 B");
  EXPECT_EQ(format_bytes(1024), "1.0 KiB");
  EXPECT_EQ(format_bytes(1048575), "1.0 MiB");
  EXPECT_EQ(format_bytes(1.5 * 1024 * 1024 * 1024), "1.5 GiB");
  EXPECT_EQ(format_bytes(0x1p60), "1024.0 PiB");
}

}  // namespace
}  // namespace voronoi::core
