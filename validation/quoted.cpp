#include "validation/quoted.h"

#include <fmt/format.h>

#include <algorithm>

#include "core/error.h"

namespace voronoi::validation {
namespace {

bool has_shape(const core::Json& model, const model::ModelConfig& config) {
  return core::whole_number(model.at("hidden_size")) == config.hidden_size &&
         core::whole_number(model.at("intermediate_size")) == config.intermediate_size &&
         core::whole_number(model.at("n_layers")) == config.n_layers &&
         core::whole_number(model.at("n_kv_heads")) == config.n_kv_heads &&
         core::whole_number(model.at("vocab_size")) == config.vocab_size &&
         core::whole_number(model.at("max_position")) == config.max_position;
}

std::optional<double> number_at(const core::Json& row, const std::string& column, std::size_t model) {
  const auto found = row.find(column);
  if (found == row.end()) return std::nullopt;
  const core::Json& value = found->at(model);
  return value.is_null() ? std::nullopt : std::optional(value.get<double>());
}

/// Whole numbers and quoted digits stay what they are.
std::string plain_number(double value) { return fmt::format("{}", value); }

}  // namespace

QuotedTable parse_quoted(const core::Json& json, const std::string& file, const model::ModelConfig& config) {
  QuotedTable table;
  try {
    for (const auto& [name, meaning] : json.at("columns").items()) {
      table.columns.push_back(name);
      table.meanings.push_back(meaning.get<std::string>());
    }
    const auto& models = json.at("models").items();
    table.of_this_model =
        std::any_of(models.begin(), models.end(), [&](const auto& model) { return has_shape(model.value(), config); });
    std::size_t place = 0;
    for (const auto& [name, shape] : models) {
      const std::size_t model = place++;
      if (table.of_this_model && !has_shape(shape, config)) continue;
      for (const core::Json& row : json.at("rows")) {
        const std::optional<double> bits = number_at(row, "bits", model);
        if (!bits) continue;
        QuotedRow quoted{name,
                         row.at("method").get<std::string>(),
                         row.value("setting", ""),
                         row.value("tuned", false),
                         row.value("by_others", false),
                         *bits,
                         core::whole_number(row.at("context")),
                         {},
                         json.at("sources").at(row.at("source").get<std::string>()).get<std::string>()};
        for (const std::string& column : table.columns) quoted.figures.push_back(number_at(row, column, model));
        table.rows.push_back(std::move(quoted));
      }
    }
  } catch (const core::Json::exception& error) {
    throw core::FormatError(file, std::string("is no file of quoted figures: ") + error.what());
  }
  return table;
}

QuotedTable quoted_figures(const model::ModelConfig& config) {
  QuotedTable all;
  for (const QuotedFile& file : quoted_files()) {
    const std::string name(file.name);
    QuotedTable table = parse_quoted(core::parse_json(file.json, name), name, config);
    if (table.of_this_model) return table;
    VORONOI_REQUIRE(all.rows.empty() || all.columns == table.columns, name + ": has other columns than the others");
    all.columns = table.columns;
    all.meanings = table.meanings;
    all.rows.insert(all.rows.end(), table.rows.begin(), table.rows.end());
  }
  return all;
}

std::string quoted_heading() { return "Quoted from papers, not measured here"; }

std::string quoted_note(const QuotedTable& quoted) {
  std::string columns;
  for (std::size_t i = 0; i < quoted.columns.size(); ++i)
    columns += fmt::format("{}{}: {}", i > 0 ? "; " : "", quoted.columns[i], quoted.meanings[i]);
  return fmt::format(
      "{} Perplexities at different contexts cannot be compared with each other, nor can these with figures of other "
      "texts, windows or questions above. Bits are those that the source tells. \"Tuned\" methods trained after "
      "quantization. {}.",
      quoted.of_this_model ? "Published figures of a model of this shape." : "Published figures of other models.",
      columns);
}

std::vector<std::vector<std::string>> quoted_cells(const QuotedTable& quoted) {
  std::vector<std::vector<std::string>> cells{{"quoted: model", "method", "bits", "context"}};
  cells.front().insert(cells.front().end(), quoted.columns.begin(), quoted.columns.end());
  cells.front().emplace_back("source");
  for (const QuotedRow& row : quoted.rows) {
    std::string method = row.method;
    if (!row.setting.empty()) method += ", " + row.setting;
    if (row.tuned) method += ", tuned";
    std::vector<std::string> line{row.model, method, plain_number(row.bits), fmt::format("{}", row.context)};
    for (const std::optional<double>& figure : row.figures) line.push_back(figure ? plain_number(*figure) : "-");
    line.push_back(row.by_others ? "by others: " + row.source : row.source);
    cells.push_back(std::move(line));
  }
  return cells;
}

}  // namespace voronoi::validation
