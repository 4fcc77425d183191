#include "backend/gpus.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace voronoi::backend {
namespace {

using ::testing::HasSubstr;

TEST(Gpus, EachRankHasOneOfItsOwn) { EXPECT_EQ(gpu_problem({{"a", "0", ""}, {"a", "1", ""}, {"b", "2", ""}}), ""); }

TEST(Gpus, SharingIsRefusedWithTheRemedy) {
  const std::string problem = gpu_problem({{"a", "0", ""}, {"b", "1", ""}, {"b", "2", ""}, {"b", "1", ""}});
  EXPECT_THAT(problem, HasSubstr("b: 3 ranks share 2 GPU(s)"));
  EXPECT_THAT(problem, HasSubstr("--ntasks-per-node=2"));
}

TEST(Gpus, OneRankWithoutIsEnough) {
  EXPECT_EQ(gpu_problem({{"a", "0", ""}, {"b", "", "there is no GPU"}}), "b: there is no GPU");
}

}  // namespace
}  // namespace voronoi::backend
