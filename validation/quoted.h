// Figures that papers tell of models of theirs: the files of configs/quoted, which are part of the program. Shown
// beside a comparison's own, never among them.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/json.h"
#include "model/config.h"

namespace voronoi::validation {

struct QuotedFile {
  std::string_view name, json;
};
const std::vector<QuotedFile>& quoted_files();

/// One model under one setting of a method.
struct QuotedRow {
  std::string model, method, setting;
  bool tuned = false;      ///< by gradients after quantization
  bool by_others = false;  ///< the source measured a method that is not its own
  double bits = 0;
  std::int64_t context = 0;                    ///< tokens a window
  std::vector<std::optional<double>> figures;  ///< by QuotedTable::columns
  std::string source;
};

struct QuotedTable {
  std::vector<std::string> columns;   ///< "W2"
  std::vector<std::string> meanings;  ///< of them
  std::vector<QuotedRow> rows;        ///< by model, as the file has them
  bool of_this_model = false;         ///< the rows are of the model that was asked for, by its shape
};

/// What a file quotes:
///   models   {name: {hidden_size, intermediate_size, n_layers, n_kv_heads, vocab_size, max_position}}
///   columns  {name: meaning}
///   sources  {key: text}
///   rows     [{method, setting, tuned, by_others, context, source, bits: [a model each or null], COLUMN: [likewise]}]
/// Those of the model with `config`'s shape where the file has it, else all. Throws FormatError naming `file`.
QuotedTable parse_quoted(const core::Json& json, const std::string& file, const model::ModelConfig& config);
/// Of all files that are part of the program; those of this model alone where one knows it.
QuotedTable quoted_figures(const model::ModelConfig& config);

/// "Quoted from papers, not measured here": a heading for both tables, and what is to be kept in mind.
std::string quoted_heading();
std::string quoted_note(const QuotedTable& quoted);
/// Headings first, and a cell a figure; the first two and the last columns are words.
std::vector<std::vector<std::string>> quoted_cells(const QuotedTable& quoted);

}  // namespace voronoi::validation
