#include "run/heartbeat.h"

#include <gmock/gmock.h>

#include <chrono>
#include <filesystem>
#include <regex>
#include <set>
#include <sstream>
#include <thread>

#include "support/temporary.h"

namespace voronoi::run {
namespace {

using testing::HasSubstr;

Heartbeat example() {
  Heartbeat heartbeat;
  heartbeat.start = 3;
  heartbeat.stage = "calibrate";
  heartbeat.doing = "block 2/32";
  heartbeat.layers = 35;
  heartbeat.layers_done = 4;
  heartbeat.ranks = 2;
  heartbeat.tokens_per_second = 1234.5;
  heartbeat.stages = {{"calibrate", 100}, {"quantize", 300}};
  return heartbeat;
}

TEST(Metrics, AreWhatPrometheusReads) {
  const std::string text = metrics_text(example(), "/a \"b\"\\c\nd");
  // Text format 0.0.4: a family's HELP and TYPE stand before its samples, once.
  const std::regex help("# HELP ([a-z_]+) [^\\n]+"), type("# TYPE ([a-z_]+) gauge");
  const std::regex sample(
      "([a-z_]+)\\{[a-z]+=\"([^\"\\\\]|\\\\[\"\\\\n])*\"(,[a-z]+=\"([^\"\\\\]|\\\\[\"\\\\n])*\")*\\} "
      "[-+]?[0-9.]+([eE][-+]?[0-9]+)?");
  std::set<std::string> helped, typed;
  std::istringstream lines(text);
  std::string line;
  std::smatch match;
  while (std::getline(lines, line)) {
    if (std::regex_match(line, match, help)) {
      EXPECT_TRUE(helped.insert(match[1]).second) << line;
    } else if (std::regex_match(line, match, type)) {
      EXPECT_TRUE(typed.insert(match[1]).second) << line;
    } else {
      ASSERT_TRUE(std::regex_match(line, match, sample)) << line;
      EXPECT_TRUE(helped.contains(match[1]) && typed.contains(match[1])) << line;
    }
  }
  EXPECT_EQ(text.back(), '\n');
  const std::string run = "run=\"/a \\\"b\\\"\\\\c\\nd\"";
  for (const std::string& value : {"voronoi_layers{" + run + "} 35\n", "voronoi_layers_done{" + run + "} 4\n",
                                   "voronoi_ranks_alive{" + run + "} 2\n", "voronoi_eta_seconds{" + run + "} 400\n",
                                   "voronoi_tokens_per_second{" + run + "} 1234.5\n",
                                   "voronoi_stage_eta_seconds{" + run + ",stage=\"quantize\"} 300\n",
                                   "voronoi_stage{" + run + ",stage=\"calibrate\"} 1\n"})
    EXPECT_THAT(text, HasSubstr(value));
}

class Heart : public testing::Test {
 protected:
  Heart() {
    store::create_run_directory(paths_);
    start_ = store::Start::begin(paths_);
  }
  test::TemporaryFolder folder_;
  store::RunPaths paths_{folder_ / "run"};
  std::unique_ptr<store::Start> start_;
};

TEST_F(Heart, BeatsWhileNobodyTellsItAnything) {
  HeartbeatWriter writer(*start_);
  writer.update(example());
  const auto updated = [&] {
    const auto heartbeat = read_heartbeat(paths_);
    return heartbeat ? heartbeat->updated : 0;
  };
  double first = 0;
  for (int i = 0; i < 1000 && first == 0; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
    first = updated();
  }
  ASSERT_GT(first, 0);
  double second = first;
  for (int i = 0; i < 1000 && second == first; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
    second = updated();
  }
  EXPECT_GT(second, first);
  const Heartbeat now = *read_heartbeat(paths_);
  EXPECT_LT(now.stages.at("calibrate"), 100);  // time goes by
  EXPECT_EQ(now.stages.at("quantize"), 300);
  EXPECT_EQ(now.doing, "block 2/32");
  EXPECT_TRUE(std::filesystem::exists(paths_.metrics()));
}

TEST_F(Heart, TellsHowAStartEnds) {
  {
    HeartbeatWriter writer(*start_);
    writer.update(example());
    writer.end("stopped");
  }
  EXPECT_EQ(read_heartbeat(paths_)->ended, "stopped");
  EXPECT_EQ(read_heartbeat(paths_)->ranks, 0);
  {
    HeartbeatWriter writer(*start_);
    writer.update(example());
  }
  EXPECT_EQ(read_heartbeat(paths_)->ended, "failed");
  EXPECT_THAT(test::read_bytes(paths_.metrics()), HasSubstr("stage=\"failed\""));
}

TEST_F(Heart, WarnsOnceOfAFileThatCannotBeWritten) {
  std::filesystem::create_directories(paths_.metrics() / "in the way");
  testing::internal::CaptureStderr();
  {
    HeartbeatWriter writer(*start_);
    writer.update(example());
    writer.end("finished");
  }
  const std::string text = testing::internal::GetCapturedStderr();
  EXPECT_THAT(text, HasSubstr("metrics.prom: cannot write"));
  EXPECT_EQ(text.find("metrics.prom"), text.rfind("metrics.prom")) << text;
  EXPECT_EQ(read_heartbeat(paths_)->ended, "finished");
}

TEST_F(Heart, SaysWhenAnotherStartHasTakenOver) {
  HeartbeatWriter writer(*start_);
  writer.update(example());
  const auto next = store::Start::begin(paths_);
  EXPECT_THROW(
      for (int i = 0; i < 1000; ++i) {
        writer.update(example());
        std::this_thread::sleep_for(std::chrono::milliseconds(10));
      },
      store::Superseded);
}

}  // namespace
}  // namespace voronoi::run
