// Runs of one comparison beside each other: a row a run, for people, for Markdown and as CSV.
#pragma once

#include <string>
#include <vector>

#include "store/run_directory.h"
#include "validation/quoted.h"

namespace voronoi::validation {

struct Comparison {
  std::string text;        ///< columns of one width, for terminals
  std::string markdown;    ///< the same with the protocols below
  std::string csv;         ///< RFC 4180, all digits; a column a figure
  std::string quoted_csv;  ///< figures of papers; empty: none
};

/// How it is shown. Briefly: perplexities, divergences and the mean of questions in the first table, minutes for
/// seconds; Markdown has all figures in a second one.
struct ComparisonView {
  bool brief = false;
  QuotedTable quoted;  ///< stands below, and is called what it is
};

/// Rows by true bits; a column for every figure and protocol that one of the runs was evaluated by, perplexities first;
/// above them the unquantized model's. Throws FormatError / StoreError.
Comparison make_comparison(const std::vector<store::RunPaths>& runs, const ComparisonView& view = {});

}  // namespace voronoi::validation
