#include "jobs/command_line.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "core/option.h"
#include "jobs/quantize_options.h"
#include "quant/parameters.h"
#include "quant/vq/vector_parameters.h"
#include "run/settings.h"

namespace voronoi::jobs {
namespace {

using ::testing::AllOf;
using ::testing::Contains;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

class CommandLine : public ::testing::Test {
 protected:
  ParseResult parse_arguments(const std::vector<std::string>& arguments) {
    options_ = {};
    return parse(quantize_command(options_), arguments, true);
  }
  std::string config(const std::string& content) {
    const auto path =
        std::filesystem::temp_directory_path() / ("voronoi_command_line_test_" + std::to_string(::getpid()) + ".cfg");
    std::ofstream(path) << content;
    return path.string();
  }
  run::Settings options_;
};

TEST_F(CommandLine, TakesValuesOfEveryKind) {
  const ParseResult result =
      parse_arguments({"--model", "m", "--run=r", "--calibration-text", "a", "--calibration-text", "b", "--centroids",
                       "512", "--damping", "0.05", "--keep-hessians", "--method", "gptq", "--seed",
                       "18446744073709551615", "--act-order", "false"});
  EXPECT_THAT(result.problems, IsEmpty());
  EXPECT_EQ(options_.model, "m");
  EXPECT_EQ(options_.run, "r");
  EXPECT_EQ(options_.calibration_texts, (std::vector<std::string>{"a", "b"}));
  EXPECT_EQ(options_.parameters.get<quant::VectorParameters>().centroids, 512);
  EXPECT_EQ(options_.parameters.damping, 0.05);
  EXPECT_TRUE(options_.keep_hessians);
  EXPECT_FALSE(options_.parameters.act_order);
  EXPECT_EQ(options_.parameters.seed, 18446744073709551615U);
}

TEST_F(CommandLine, SpellingsOfOtherProgramsGetAWord) {
  for (const auto& [given, meant] : {std::pair{"-model", "--model"},
                                     {"-calibration-text=a", "--calibration-text"},
                                     {"--calibration_text", "--calibration-text"},
                                     {"-vector_length", "--vector-length"},
                                     {"-help", "--help"},
                                     {"--log_format", "--log-format"}}) {
    const ParseResult result = parse_arguments({given, "x"});
    ASSERT_THAT(result.problems, SizeIs(1));
    EXPECT_THAT(result.problems.front(), AllOf(HasSubstr(given), HasSubstr(std::string("write ") + meant)));
  }
  EXPECT_THAT(parse_arguments({"--model", "-"}).problems, IsEmpty());
  EXPECT_THAT(parse_arguments({"-unheard"}).problems, Contains(HasSubstr("unheard")));
}

TEST_F(CommandLine, WinsOverTheConfigFile) {
  const std::string file = config("centroids = 64\nvector-length = 6\ncalibration-text = a\ncalibration-text = b\n");
  EXPECT_THAT(parse_arguments({"--config", file, "--centroids", "128", "--calibration-text", "c"}).problems, IsEmpty());
  EXPECT_EQ(options_.parameters.get<quant::VectorParameters>().centroids, 128);
  EXPECT_EQ(options_.parameters.get<quant::VectorParameters>().vector_length, 6);
  EXPECT_EQ(options_.calibration_texts, std::vector<std::string>{"c"});
}

TEST_F(CommandLine, ReportsAllProblemsAtOnce) {
  const std::string file = config("vector-length = banana\nno-such-key = 1\n");
  const ParseResult result =
      parse_arguments({"--config", file, "--centroids", "1.5", "--bogus", "--method", "vtpq", "stray", "--seed", "-1"});
  EXPECT_THAT(result.problems, SizeIs(7));
  EXPECT_THAT(result.problems, Contains(AllOf(HasSubstr(file), HasSubstr("vector-length"), HasSubstr("banana"))));
  EXPECT_THAT(result.problems, Contains(HasSubstr("no-such-key")));
  EXPECT_THAT(result.problems, Contains(AllOf(HasSubstr("--centroids"), HasSubstr("1.5"))));
  EXPECT_THAT(result.problems, Contains(HasSubstr("--bogus")));
  EXPECT_THAT(result.problems, Contains(HasSubstr("vtpq")));
  EXPECT_THAT(result.problems, Contains(HasSubstr("stray")));
  EXPECT_THAT(result.problems, Contains(HasSubstr("--seed")));
}

TEST_F(CommandLine, RefusesAbbreviationsAndRepeatedSingleOptions) {
  EXPECT_THAT(parse_arguments({"--centr", "64"}).problems, Contains(HasSubstr("--centr")));
  EXPECT_THAT(parse_arguments({"--centroids", "64", "--centroids", "32"}).problems,
              Contains(HasSubstr("more than once")));
  EXPECT_THAT(parse_arguments({"--config", "/no/such/file"}).problems, Contains(HasSubstr("/no/such/file")));
  EXPECT_THAT(parse_arguments({"--model"}).problems, Contains(HasSubstr("model")));
}

TEST_F(CommandLine, HelpNamesEveryOptionAndHasExamples) {
  const CommandSpec command = quantize_command(options_);
  const std::string text = help_text(command, true);
  for (const core::OptionSpec& option : command.options) EXPECT_THAT(text, HasSubstr("--" + option.name));
  EXPECT_THAT(text, HasSubstr("mpirun -n 2 voronoi quantize"));
  EXPECT_TRUE(parse_arguments({"--bogus", "--help"}).help);
}

TEST(Settings, SetChangesParametersOnly) {
  quant::QuantParameters parameters;
  EXPECT_EQ(quant::apply_set(parameters, "centroids=128"), "");
  EXPECT_EQ(parameters.get<quant::VectorParameters>().centroids, 128);
  EXPECT_THAT(quant::apply_set(parameters, "centroids=many"), HasSubstr("many"));
  EXPECT_THAT(quant::apply_set(parameters, "model=other"), HasSubstr("cannot be set"));
  EXPECT_THAT(quant::apply_set(parameters, "centroids"), HasSubstr("NAME=VALUE"));
}

TEST(Settings, CheckNamesWhatIsMissing) {
  EXPECT_THAT(run::check(run::Settings{}), AllOf(Contains(HasSubstr("--model")), Contains(HasSubstr("--run")),
                                                 Contains(HasSubstr("--calibration-text"))));
}

}  // namespace
}  // namespace voronoi::jobs
