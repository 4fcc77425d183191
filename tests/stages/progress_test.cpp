#include "stages/progress.h"

#include <gtest/gtest.h>

namespace voronoi::stages {
namespace {

TEST(StageClock, TellsWhatIsLeftBeforeAnythingIsDone) {
  StageClock clock;
  clock.expect("calibrate", 10);
  clock.expect("quantize", 30);
  EXPECT_EQ(clock.left(), (std::map<std::string, double>{{"calibrate", 10}, {"quantize", 30}}));
}

TEST(StageClock, MeasuredPiecesScaleTheRestOfTheirStageAlone) {
  StageClock clock;
  for (int block = 0; block < 4; ++block) clock.expect("calibrate", 10);
  clock.expect("quantize", 30);
  clock.done("calibrate", 10, 25);
  EXPECT_DOUBLE_EQ(clock.left().at("calibrate"), 75);
  EXPECT_DOUBLE_EQ(clock.left().at("quantize"), 30);
  EXPECT_DOUBLE_EQ(clock.corrected("calibrate", 10), 25);
}

TEST(StageClock, APieceUnderWayCountsWithWhatIsThoughtToBeLeftOfIt) {
  StageClock clock;
  for (int window = 0; window < 2; ++window) clock.expect("quantize", 10);
  clock.under_way("quantize", 10, 15, 5);  // twice as long as predicted
  EXPECT_DOUBLE_EQ(clock.left().at("quantize"), 5 + 20);
  clock.done("quantize", 10, 20);
  EXPECT_DOUBLE_EQ(clock.left().at("quantize"), 20);
  clock.done("quantize", 10, 20);
  EXPECT_TRUE(clock.left().empty());
}

TEST(LeftText, NamesTheStagesWhereThereAreSeveral) {
  EXPECT_EQ(left_text({}), "");
  EXPECT_EQ(left_text({{"quantize", 10}}), ", about 10.0 s left");
  EXPECT_EQ(left_text({{"calibrate", 5}, {"quantize", 10}}), ", about 15.0 s left (calibrate 5.0 s, quantize 10.0 s)");
}

}  // namespace
}  // namespace voronoi::stages
