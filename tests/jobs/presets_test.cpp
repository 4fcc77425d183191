// Presets of `compare`: data that must fit the methods and options that there are.
#include "jobs/presets.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/error.h"
#include "jobs/compare_options.h"
#include "quant/baselines/uniform_method.h"

namespace voronoi::jobs {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

struct Parsed {
  std::vector<std::string> names, problems;
  std::vector<run::Settings> members;
  std::vector<run::GivenOption> given;
  CompareOptions options;
};

void parse_compare(std::vector<std::string> arguments, Parsed& parsed) {
  arguments.insert(arguments.end(), {"--model=model", "--out=out", "--calibration-text=text"});
  CompareOptions before;
  parse(compare_command(before), arguments, true);
  const ParseResult result = parse(compare_command(parsed.options), arguments, true, preset_options(before, {}));
  parsed.given = result.given;
  parsed.problems = result.problems;
  parsed.members = member_settings(parsed.options, result.given, parsed.problems);
  for (const run::Settings& member : parsed.members)
    parsed.names.push_back(std::filesystem::path(member.run).filename().string());
}

TEST(Presets, EveryOneFitsItsMethods) {
  ASSERT_THAT(preset_names(), ::testing::Contains("paper"));
  for (const std::string& name : preset_names()) {
    Parsed parsed;
    parse_compare({"--preset", name}, parsed);
    EXPECT_THAT(parsed.problems, IsEmpty()) << name;
    std::size_t n = 0;
    for (const PresetMethod& method : find_preset(name).methods) n += method.bits.size();
    EXPECT_EQ(parsed.members.size(), n) << name;
  }
}

TEST(Presets, MethodsAndBitsChooseAmongThem) {
  Parsed parsed;
  parse_compare({"--preset", "paper", "--methods", "afpq,rtn", "--bits", "2.0,3"}, parsed);
  EXPECT_THAT(parsed.problems, IsEmpty());
  EXPECT_THAT(parsed.names, ElementsAre("rtn-2bit", "rtn-3bit", "afpq-3bit"));
  Parsed none;
  parse_compare({"--preset", "paper", "--methods", "afpq", "--bits", "2"}, none);
  EXPECT_THAT(none.problems, ElementsAre(HasSubstr("has none of --methods afpq at --bits 2")));
}

TEST(Presets, WhatIsGivenTakesThePlaceOfItsSettings) {
  Parsed parsed;
  parse_compare({"--preset", "paper", "--methods", "rtn", "--bits", "2", "--group-size", "32"}, parsed);
  EXPECT_THAT(parsed.problems, IsEmpty());
  ASSERT_EQ(parsed.members.size(), 1U);
  EXPECT_EQ(parsed.members[0].parameters.get<quant::UniformParameters>().group_size, 32);
  EXPECT_TRUE(parsed.options.eval.text.divergence) << "the preset's own";
}

TEST(Presets, QuestionsAreAskedWhereTheirDataIs) {
  Parsed without, with, chosen;
  parse_compare({"--preset", "paper"}, without);
  EXPECT_EQ(without.options.eval.tasks, "");
  parse_compare({"--preset", "paper", "--task-data", "qa"}, with);
  EXPECT_THAT(with.options.eval.tasks, HasSubstr("winogrande"));
  parse_compare({"--preset", "paper", "--task-data", "qa", "--tasks", "boolq"}, chosen);
  EXPECT_EQ(chosen.options.eval.tasks, "boolq");
  // The evaluation is told all of it, and so is a start that goes on.
  EXPECT_THAT(eval_arguments(with.given, with.members), ::testing::IsSupersetOf({"--kl", "--task-data=qa"}));
  CompareOptions nothing;
  EXPECT_EQ(preset_options(nothing, with.given).size(), with.given.size());
}

TEST(Presets, AFileThatIsNoneIsNamed) {
  try {
    parse_preset(core::Json{{"about", "x"}, {"methods", {{"rtn", {{"group-size", "2"}}}}}}, "mine.json");
    FAIL();
  } catch (const core::FormatError& error) {
    EXPECT_THAT(error.what(), HasSubstr("mine.json"));
  }
}

}  // namespace
}  // namespace voronoi::jobs
