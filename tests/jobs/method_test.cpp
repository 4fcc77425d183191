// A method that the program does not know comes to command line, plan and export by its registration alone.
#include "quant/method.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "export/profile.h"
#include "jobs/quantize_options.h"
#include "planning/bits.h"
#include "planning/model_sizes.h"
#include "planning/plan.h"
#include "stages/stage.h"
#include "support/toy_method.h"

namespace voronoi::jobs {
namespace {

using ::testing::AllOf;
using ::testing::Contains;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

class ToyMethod : public ::testing::Test {
 protected:
  std::vector<std::string> problems_of(std::vector<std::string> arguments) {
    options_ = {};
    arguments.insert(arguments.end(), {"--method", "toy", "--model", "m", "--run", "r", "--calibration-text", "t"});
    const ParseResult result = parse(quantize_command(options_), arguments, true);
    if (!result.problems.empty()) return result.problems;
    std::vector<std::string> problems = check(options_);
    for (std::string& problem : stages::check_stages(options_)) problems.push_back(std::move(problem));
    return problems;
  }
  test::Toy toy_;
  quant::MethodRegistration registration_{toy_};
  run::Settings options_;
};

TEST_F(ToyMethod, TakesItsOptionsFromTheCommandLineAndNoOthersWords) {
  EXPECT_THAT(problems_of({"--levels", "8", "--ridge", "0.5"}), IsEmpty());
  EXPECT_EQ(options_.parameters.get<test::ToyParameters>().levels, 8);
  EXPECT_THAT(problems_of({"--levels", "9"}), Contains(AllOf(HasSubstr("--levels"), HasSubstr("power of two"))));
  EXPECT_THAT(problems_of({"--levels", "2"}), Contains(HasSubstr("--act-order true")));
  EXPECT_THAT(problems_of({"--set", "ridge=-1"}), Contains(HasSubstr("--set: ridge")));
  EXPECT_THAT(problems_of({"--bits", "3", "--levels", "4"}), Contains(HasSubstr("--levels")));
  EXPECT_THAT(help_text(quantize_command(options_), true), AllOf(HasSubstr("toy: steps"), HasSubstr("toy: chooses")));
}

TEST_F(ToyMethod, IsNotExportedWhenItsLayersAreOfAnotherFormat) {
  EXPECT_THAT(problems_of({"--stages", "calibrate,quantize,export"}), Contains(HasSubstr("--method toy")));
  EXPECT_THAT(problems_of({}), IsEmpty());
  EXPECT_FALSE(stages::is_wanted(options_, "export"));
}

TEST_F(ToyMethod, IsPlannedForAWholeModel) {
  planning::PlanRequest request;
  request.options.model = "llama-2-7b";
  request.config = planning::read_model_config(request.options.model);
  request.options.parameters.method = "toy";
  request.options.bits = 3.4;
  planning::resolve_bits(request.options, request.config);
  EXPECT_EQ(request.options.parameters.get<test::ToyParameters>().levels, 8);
  request.rates = planning::table_rates(backend::Device::cpu, 2);
  request.threads = 2;
  const planning::Plan plan = planning::make_plan(request);
  EXPECT_EQ(plan.nominal_bits, 3);
  EXPECT_NEAR(plan.true_bits(), 3, 0.02);
  EXPECT_THAT(plan.quantizing.where, HasSubstr("the toys of "));
  EXPECT_GT(plan.total_seconds, 0);
  EXPECT_THAT(plan_text(request, plan), HasSubstr("toy, 8 levels"));
  EXPECT_EQ(plan_json(request, plan).at("parameters").at("levels"), 8);
}

}  // namespace
}  // namespace voronoi::jobs
