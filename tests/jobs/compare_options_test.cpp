#include "jobs/compare_options.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>

#include "quant/trellis/trellis_method.h"
#include "quant/vq/voronoi.h"
#include "support/temporary.h"

namespace voronoi::jobs {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;

std::vector<run::Settings> members_of(std::vector<std::string> arguments) {
  arguments.insert(arguments.end(), {"--model=model", "--out=out", "--calibration-text=text"});
  CompareOptions options;
  const ParseResult parsed = parse(compare_command(options), arguments, true);
  EXPECT_THAT(parsed.problems, IsEmpty());
  std::vector<std::string> problems;
  std::vector<run::Settings> members = member_settings(options, parsed.given, problems);
  EXPECT_THAT(problems, IsEmpty());
  return members;
}

TEST(CompareOptions, EachMethodLooksAtTheHessiansItTakesByItself) {
  const auto members = members_of({"--methods", "rtn,voronoi", "--bits", "2"});
  ASSERT_EQ(members.size(), 2U);
  for (const run::Settings& settings : members) EXPECT_EQ(settings.hessian, "guided");  // one calibration for both
  EXPECT_FALSE(members[0].parameters.guided_metric);
  EXPECT_TRUE(members[1].parameters.guided_metric);
}

TEST(CompareOptions, GroupsOfRowsAreForAllAndOthersLookAtPlainHessians) {
  const auto members = members_of({"--methods", "rtn,voronoi", "--bits", "2", "--hessian-groups", "2"});
  ASSERT_EQ(members.size(), 2U);
  for (const run::Settings& settings : members) EXPECT_EQ(settings.hessian_groups, 2);
  EXPECT_FALSE(members[0].parameters.guided_metric);
}

TEST(CompareOptions, NobodyPaysForGuidedHessiansThatNobodyTakes) {
  const auto members = members_of({"--methods", "rtn,vptq", "--bits", "2"});
  ASSERT_EQ(members.size(), 2U);
  for (const run::Settings& settings : members) EXPECT_EQ(settings.hessian, "plain");
}

TEST(CompareOptions, WhatWasSaidOfHessiansIsForAll) {
  for (const run::Settings& settings : members_of({"--methods", "rtn,voronoi", "--bits", "2", "--hessian", "plain"}))
    EXPECT_EQ(settings.hessian, "plain");
  for (const run::Settings& settings : members_of({"--methods", "rtn,voronoi", "--bits", "2", "--hessian", "guided"})) {
    EXPECT_EQ(settings.hessian, "guided");
    EXPECT_TRUE(settings.parameters.guided_metric);
  }
  for (const run::Settings& settings :
       members_of({"--methods", "rtn,voronoi", "--bits", "2", "--guided-metric", "false"})) {
    EXPECT_EQ(settings.hessian, "guided");
    EXPECT_FALSE(settings.parameters.guided_metric);
  }
}

TEST(CompareOptions, EffortIsThatOfEachMethodUnlessAnOptionIsGiven) {
  const auto members = members_of({"--methods", "rtn,voronoi,trellis", "--bits", "2", "--effort", "quick"});
  ASSERT_EQ(members.size(), 3U);
  for (const run::Settings& settings : members) EXPECT_EQ(settings.hessian, "plain");  // nobody takes others then
  EXPECT_EQ(members[1].parameters.get<quant::VoronoiParameters>().rounds, 1);
  EXPECT_EQ(members[2].parameters.get<quant::TrellisParameters>().state_bits, 12);
  const auto given = members_of({"--methods", "voronoi", "--bits", "2", "--effort", "quick", "--rounds", "2"});
  EXPECT_EQ(given.at(0).parameters.get<quant::VoronoiParameters>().rounds, 2);

  CompareOptions options;
  const ParseResult best =
      parse(compare_command(options),
            {"--model=model", "--out=out", "--calibration-text=text", "--methods=voronoi", "--bits=2", "--effort=best"},
            true);
  std::vector<std::string> problems;
  member_settings(options, best.given, problems);
  EXPECT_THAT(problems, ::testing::Contains(HasSubstr("--effort: best divides the bits")));
}

TEST(CompareOptions, AConfigFileMaySayWhichHessiansItsRunLooksAt) {
  const test::TemporaryFolder scratch;
  const std::string file = (scratch.path() / "guided-vptq.cfg").string();
  std::ofstream(file) << "method = vptq\nguided-metric = true\n";
  const auto members = members_of({"--methods", "vptq,voronoi", "--bits", "2", "--member", file});
  ASSERT_EQ(members.size(), 3U);
  EXPECT_FALSE(members[0].parameters.guided_metric);
  EXPECT_TRUE(members[1].parameters.guided_metric);
  EXPECT_TRUE(members[2].parameters.guided_metric);
}

}  // namespace
}  // namespace voronoi::jobs
