// Figures of papers: a file's rows, of one model or of all, and what is shown of them.
#include "validation/quoted.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/error.h"

namespace voronoi::validation {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

model::ModelConfig config_of(std::int64_t hidden) {
  model::ModelConfig config;
  config.hidden_size = hidden;
  config.intermediate_size = 8;
  config.n_layers = 2;
  config.n_kv_heads = 1;
  config.vocab_size = 9;
  config.max_position = 16;
  return config;
}

core::Json shape(std::int64_t hidden) {
  return {{"hidden_size", hidden}, {"intermediate_size", 8}, {"n_layers", 2},
          {"n_kv_heads", 1},       {"vocab_size", 9},        {"max_position", 16}};
}

const core::Json kFile{
    {"models", {{"small", shape(4)}, {"large", shape(6)}}},
    {"columns", {{"W2", "perplexity"}}},
    {"sources", {{"a", "A (2024)"}}},
    {"rows",
     {{{"method", "m"},
       {"setting", "s"},
       {"tuned", true},
       {"context", 2048},
       {"source", "a"},
       {"bits", {2.5, nullptr}},
       {"W2", {7.25, nullptr}}},
      {{"method", "n"}, {"by_others", true}, {"context", 4096}, {"source", "a"}, {"bits", {3, 3}}}}}};

TEST(Quoted, OfAllModelsOrOfTheOneAtHand) {
  const QuotedTable all = parse_quoted(kFile, "file", config_of(5));
  EXPECT_FALSE(all.of_this_model);
  EXPECT_THAT(quoted_cells(all), ElementsAre(ElementsAre("quoted: model", "method", "bits", "context", "W2", "source"),
                                             ElementsAre("small", "m, s, tuned", "2.5", "2048", "7.25", "A (2024)"),
                                             ElementsAre("small", "n", "3", "4096", "-", "by others: A (2024)"),
                                             ElementsAre("large", "n", "3", "4096", "-", "by others: A (2024)")));
  const QuotedTable large = parse_quoted(kFile, "file", config_of(6));
  EXPECT_TRUE(large.of_this_model);
  EXPECT_EQ(quoted_cells(large).size(), 2U);
  EXPECT_THAT(quoted_note(large), HasSubstr("W2: perplexity"));
}

TEST(Quoted, WhatIsPartOfTheProgramIsReadable) {
  const QuotedTable all = quoted_figures(config_of(5));
  EXPECT_GT(all.rows.size(), 80U);
  for (const QuotedRow& row : all.rows) {
    EXPECT_FALSE(row.source.empty());
    ASSERT_EQ(row.figures.size(), all.columns.size());
    EXPECT_TRUE(row.figures.front().has_value()) << row.model << " " << row.method;
    EXPECT_GT(row.context, 0);
  }
}

TEST(Quoted, AFileThatIsNoneIsNamed) {
  core::Json broken = kFile;
  broken["rows"][0]["source"] = "b";
  EXPECT_THROW(parse_quoted(broken, "file", config_of(5)), core::FormatError);
  broken = kFile;
  broken["rows"][0].erase("bits");
  EXPECT_EQ(parse_quoted(broken, "file", config_of(6)).rows.size(), 1U);
}

}  // namespace
}  // namespace voronoi::validation
