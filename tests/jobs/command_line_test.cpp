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

TEST_F(CommandLine, TakesRulesFromTablesBehindTheOptions) {
  const std::string file = config(
      "centroids = 64\n\n[[rules]]  # the first\nmatch = \"model.layers.*.mlp.down_proj\"\nbits = 3  # more\n"
      "[[rules]]\nquantize = false\nmatch = *.v_proj\n");
  const ParseResult result = parse_arguments({"--config", file});
  EXPECT_THAT(result.problems, IsEmpty());
  ASSERT_THAT(options_.rules, SizeIs(2));
  EXPECT_EQ(quant::rule_text(options_.rules[0]), "model.layers.*.mlp.down_proj bits=3");
  EXPECT_EQ(quant::rule_text(options_.rules[1]), "*.v_proj quantize=false");
  EXPECT_EQ(options_.parameters.get<quant::VectorParameters>().centroids, 64);
  complete(result.given, options_);
  EXPECT_THAT(quant::rule_name(options_.rules[1]),
              AllOf(HasSubstr(file + ": [[rules]] 2 (line 6)"), HasSubstr("v_proj")));
  // Of the command line they take the place of all of them; a later start takes them as they were given.
  parse_arguments({"--config", file, "--rule", "*.o_proj bits=4"});
  ASSERT_THAT(options_.rules, SizeIs(1));
  EXPECT_EQ(options_.rules[0].pattern, "*.o_proj");
  options_ = {};
  EXPECT_THAT(parse(quantize_command(options_), {}, true, result.given).problems, IsEmpty());
  EXPECT_THAT(options_.rules, SizeIs(2));
}

TEST_F(CommandLine, NamesTheFileAndTheTableOfWhatIsWrongWithARule) {
  const auto problems = [&](const std::string& tables) {
    return parse_arguments({"--config", config("centroids = 64\n" + tables)}).problems;
  };
  const auto of_table = [&](const std::string& what) {
    return Contains(AllOf(HasSubstr(".cfg: [[rules]] 1 (line 2)"), HasSubstr(what)));
  };
  EXPECT_THAT(problems("[[rules]]\nbits = 3\n"), of_table("match: is missing"));
  EXPECT_THAT(problems("[[rules]]\nmatch = *\nmatch = *.b\n"), of_table("match: given more than once"));
  EXPECT_THAT(problems("[[rules]]\nmatch = *\n"), of_table("says nothing"));
  EXPECT_THAT(problems("[[rules]]\nmatch = *\nbit = 3\n"), of_table("*: bit: is unknown"));
  EXPECT_THAT(problems("[[rules]]\nmatch = *\nbits = 9\n"), of_table("from 0.5 to 8"));
  EXPECT_THAT(problems("[[rules]]\nmatch = * *.b\n"), of_table("one word"));
  EXPECT_THAT(problems("[[rules]]\nmatch\n"), of_table("NAME = VALUE"));
  EXPECT_THAT(problems("[[rules]]\nmatch = *\nbits = 3\n[other]\n"), Contains(HasSubstr("line 5: [other]")));
  EXPECT_THAT(problems("[other]\nbits = 3\n"), Contains(HasSubstr("other.bits: unknown key")));
  EXPECT_THAT(parse_arguments({"--rule", "* bits=9"}).problems, Contains(HasSubstr("--rule: *: bits")));
  CommandSpec other = quantize_command(options_);
  std::erase_if(other.options, [](const core::OptionSpec& option) { return option.name == kRuleOption; });
  EXPECT_THAT(parse(other, {"--config", config("[[rules]]\nmatch = *\nbits = 3\n")}, true).problems,
              Contains(AllOf(HasSubstr("[[rules]] 1"), HasSubstr("unknown key"))));
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
