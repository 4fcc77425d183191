#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>

#include "core/error.h"
#include "core/json.h"
#include "jobs/command_line.h"
#include "jobs/quantize_options.h"
#include "quant/trellis/trellis_method.h"
#include "quant/vq/voronoi.h"
#include "store/run_directory.h"
#include "store/start.h"

namespace voronoi::jobs {
namespace {

using ::testing::IsEmpty;

run::Settings settings_of(const std::vector<std::string>& arguments) {
  run::Settings settings;
  const ParseResult parsed = parse(quantize_command(settings), arguments, true);
  EXPECT_THAT(parsed.problems, IsEmpty());
  complete(parsed.given, settings);
  return settings;
}

std::int64_t rounds_of(const run::Settings& settings) {
  return settings.parameters.get<quant::VoronoiParameters>().rounds;
}

TEST(Effort, IsWhatTheMethodSaysWhereNothingWasGiven) {
  const run::Settings normal = settings_of({});
  EXPECT_EQ(normal.parameters.method, "voronoi");
  EXPECT_EQ(normal.hessian, "guided");
  EXPECT_EQ(normal.tune, "none");
  const run::Settings quick = settings_of({"--effort", "quick"});
  EXPECT_EQ(quick.hessian, "plain");
  EXPECT_EQ(rounds_of(quick), 1);
  EXPECT_GT(rounds_of(normal), 1);
  const run::Settings best = settings_of({"--effort", "best"});
  EXPECT_EQ(best.hessian, "guided");
  EXPECT_EQ(best.tune, "end-to-end");
  EXPECT_FALSE(best.allocate) << "there are no bits to divide";
  EXPECT_TRUE(settings_of({"--effort", "best", "--bits", "2"}).allocate);
  EXPECT_FALSE(settings_of({"--bits", "2"}).allocate);
}

TEST(Effort, GivesWayToWhatWasGiven) {
  const run::Settings settings =
      settings_of({"--effort", "best", "--hessian", "plain", "--tune-phases", "block", "--rounds", "7"});
  EXPECT_EQ(settings.hessian, "plain");
  EXPECT_EQ(settings.tune, "block");
  EXPECT_EQ(rounds_of(settings), 7);
  const run::Settings parts = settings_of({"--effort", "best", "--bits", "2", "--stages", "calibrate,quantize"});
  EXPECT_EQ(parts.tune, "none");
  EXPECT_FALSE(parts.allocate);
  EXPECT_FALSE(settings_of({"--effort", "best", "--bits", "2", "--hessian", "plain"}).allocate);
}

TEST(Effort, IsNothingToMethodsThatArePublished) {
  for (const char* method : {"rtn", "gptq", "bitdistiller", "awq", "afpq", "gptvq", "quip_sharp", "aqlm", "vptq"}) {
    const run::Settings settings = settings_of({"--method", method, "--effort", "best"});
    EXPECT_EQ(settings.hessian, "plain") << method;
    EXPECT_EQ(settings.tune, "none") << method;
  }
}

TEST(Effort, OfTrellisCodesIsStatesMetricDividedBitsAndTuning) {
  const auto state_bits = [](const run::Settings& settings) {
    return settings.parameters.get<quant::TrellisParameters>().state_bits;
  };
  const run::Settings quick = settings_of({"--method", "trellis", "--effort", "quick"}),
                      normal = settings_of({"--method", "trellis"}),
                      best = settings_of({"--method", "trellis", "--effort", "best", "--bits", "2"});
  EXPECT_EQ(state_bits(quick), 12);
  EXPECT_EQ(quick.hessian, "plain");
  EXPECT_EQ(state_bits(normal), 16);
  EXPECT_EQ(normal.hessian, "guided");
  EXPECT_FALSE(normal.allocate);
  EXPECT_TRUE(best.allocate);
  EXPECT_EQ(normal.tune, "none");
  EXPECT_EQ(best.tune, "end-to-end");
}

TEST(Effort, MovingCodesThatStayIsRefusedBeforeAnyWork) {
  run::Settings settings = settings_of({"--method", "gptvq", "--tune-phases", "end-to-end,codes"});
  EXPECT_THAT(run::check(settings), ::testing::Contains(::testing::HasSubstr("codes of --method gptvq stay")));
  settings.tune = "end-to-end";
  EXPECT_THAT(run::check(settings), Not(::testing::Contains(::testing::HasSubstr("--tune-phases"))));
  settings.parameters.method = "gptq";
  settings.tune = "end-to-end,codes";
  EXPECT_THAT(run::check(settings), Not(::testing::Contains(::testing::HasSubstr("--tune-phases"))));
}

TEST(Effort, LeavesSequentialCalibrationPlain) {
  EXPECT_EQ(settings_of({"--calibration", "sequential"}).hessian, "plain");
}

/// A run directory of that calibration; removed in the end.
class Donor {
 public:
  explicit Donor(const core::Json& calibration) {
    store::create_run_directory(paths_);
    store::check_or_write_identity(*store::Start::begin(paths_), {{"calibration", calibration}});
  }
  ~Donor() { std::filesystem::remove_all(paths_.root); }
  Donor(const Donor&) = delete;
  Donor& operator=(const Donor&) = delete;
  std::string path() const { return paths_.root.string(); }

 private:
  // Tests are processes side by side.
  store::RunPaths paths_{std::filesystem::path(::testing::TempDir()) /
                         (std::string("donor_of_") + ::testing::UnitTest::GetInstance()->current_test_info()->name())};
};

TEST(ForeignHessians, BringTheirCalibration) {
  const Donor donor(core::Json{{"sequences", 7}, {"context", 96}, {"held_out", 0.25}, {"hessian", "guided"}});
  const run::Settings taken = settings_of({"--method", "vptq", "--hessians-from", donor.path()});
  EXPECT_EQ(taken.calibration_sequences, 7);
  EXPECT_EQ(taken.calibration_context, 96);
  EXPECT_EQ(taken.calibration_held_out, 0.25);
  EXPECT_EQ(taken.hessian, "guided");
  EXPECT_EQ(settings_of({"--hessians-from", donor.path(), "--calibration-sequences", "9"}).calibration_sequences, 9);
}

TEST(ForeignHessians, BringTheirGroupsOfRows) {
  const Donor donor(core::Json{{"sequences", 7}, {"context", 96}, {"hessian", "guided"}, {"hessian_groups", 4}});
  EXPECT_EQ(settings_of({"--hessians-from", donor.path()}).hessian_groups, 4);
  EXPECT_EQ(settings_of({"--hessians-from", donor.path(), "--hessian-groups", "4"}).hessian_groups, 4);
  EXPECT_EQ(settings_of({"--hessians-from", donor.path(), "--hessian", "plain"}).hessian_groups, 1);
  try {
    settings_of({"--hessians-from", donor.path(), "--hessian-groups", "2"});
    ADD_FAILURE() << "another number of groups was taken";
  } catch (const core::ConfigError& error) {
    EXPECT_THAT(error.what(), ::testing::HasSubstr("were made with 4"));
  }
}

TEST(HessianGroups, AreForGuidedHessiansAndMethodsThatTakeThem) {
  const auto problems_of = [](const std::vector<std::string>& arguments) {
    std::vector<std::string> all{"--hessian-groups", "2"};
    all.insert(all.end(), arguments.begin(), arguments.end());
    return run::check_row_groups(settings_of(all));
  };
  EXPECT_THAT(problems_of({}), IsEmpty());
  EXPECT_THAT(problems_of({"--method", "vptq", "--hessian", "guided"}), IsEmpty());
  EXPECT_THAT(problems_of({"--hessian", "plain"}),
              ::testing::ElementsAre(::testing::HasSubstr("needs --hessian guided")));
  for (const char* method : {"trellis", "gptq"})
    EXPECT_THAT(problems_of({"--method", method, "--hessian", "guided"}),
                ::testing::ElementsAre(::testing::HasSubstr("methods that take groups: vptq, voronoi")))
        << method;
  EXPECT_THAT(problems_of({"--method", "gptq", "--hessian", "guided", "--guided-metric", "false"}), IsEmpty());
}

TEST(ForeignHessians, ThatAreOldArePlainAndOfAllWindows) {
  const Donor donor(core::Json{{"sequences", 7}, {"context", 96}});
  EXPECT_EQ(settings_of({"--hessians-from", donor.path()}).hessian, "plain");
  EXPECT_EQ(settings_of({"--hessians-from", donor.path()}).calibration_held_out, 0);
}

TEST(ForeignHessians, OfNoRunAreToldLaterAndOfADamagedOneHere) {
  EXPECT_EQ(settings_of({"--hessians-from", "/nowhere"}).hessian, "guided");
  const Donor donor(core::Json{{"sequences", "many"}});
  EXPECT_THROW(settings_of({"--hessians-from", donor.path()}), core::FormatError);
}

}  // namespace
}  // namespace voronoi::jobs
