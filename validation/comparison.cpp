#include "validation/comparison.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <iterator>
#include <map>
#include <tuple>
#include <utility>

#include "core/json.h"
#include "core/log.h"
#include "core/printable.h"
#include "run/run_model.h"
#include "run/run_state.h"
#include "validation/evaluation.h"
#include "validation/result.h"

namespace voronoi::validation {
namespace {

/// What was measured, in the order in which it is shown.
struct Measurement {
  bool is_other = false;  ///< than a perplexity
  std::string task, metric;
  core::Json protocol;
  auto key() const { return std::tuple(is_other, task, metric, protocol.dump()); }
  bool operator<(const Measurement& other) const { return key() < other.key(); }
  std::string name(bool exact) const { return is_other || exact ? metric + " " + task : task; }
  bool is_brief() const {
    return metric == kPerplexity || metric == kDivergence || (task == kMeanOfTasks && metric == "acc");
  }
};

using Measurements = std::map<Measurement, double>;

struct Row {
  std::string name, method;
  double bits_nominal = 0, bits_true = 0, relative_error = 0, seconds = 0;
  std::int64_t peak_memory_bytes = 0;
  std::size_t n_failures = 0;
  Measurements figures;
};

void take(const std::vector<Result>& results, Measurements& figures) {
  for (const Result& result : results)
    figures[{result.metric != kPerplexity, result.task, result.metric, result.protocol}] = result.value;
}

/// `reference`: figures of the unquantized model are put there.
Row row_of(const store::RunPaths& run, Measurements& reference) {
  const run::RunState state = run::read_state(run);
  Row row;
  row.name = run.root.filename().string();
  row.method = store::read_identity(run).at("quantization").at("method").get<std::string>();
  row.bits_nominal = nominal_bits(state);
  row.bits_true = true_bits(state);
  for (const auto& [name, layer] : state.layers)
    row.relative_error += layer.relative_error / static_cast<double>(state.layers.size());
  for (const auto& [stage, seconds] : state.stage_seconds) row.seconds += seconds;
  row.peak_memory_bytes = state.peak_memory_bytes;
  row.n_failures = run::failures(state).size();
  for (const Evaluation& stored : stored_evaluations(run)) {
    take(stored.results, row.figures);
    take(stored.reference, reference);
  }
  return row;
}

using Cells = std::vector<std::string>;

/// Headings first. The first two columns are words, the others numbers, the last `words_behind` words again.
struct Table {
  Cells header;
  std::vector<Cells> rows;
  std::size_t words_behind = 0;
  bool is_words(std::size_t column) const { return column < 2 || column + words_behind >= header.size(); }
};

enum class Form {
  whole,
  minutes,  ///< of a paper's table
  exact     ///< all digits and plain units, for programs
};

std::string figure_cell(const Measurements& figures, const Measurement& figure, bool exact) {
  const auto found = figures.find(figure);
  if (found == figures.end()) return exact ? "" : "-";
  return exact ? fmt::format("{}", found->second) : fmt::format("{:.4f}", found->second);
}

Table table_of(const std::vector<Row>& rows, const Measurements& reference, const std::vector<Measurement>& measured,
               Form form) {
  const bool exact = form == Form::exact, minutes = form == Form::minutes;
  Table table;
  table.header =
      exact ? Cells{"run", "method", "bits_nominal", "bits_true"} : Cells{"run", "method", "nominal bits", "true bits"};
  for (const Measurement& figure : measured) table.header.push_back(figure.name(exact));
  for (const char* name : {"relative error", minutes ? "minutes" : "seconds", "peak memory", "failures"})
    table.header.emplace_back(name);
  if (exact)
    for (std::string& name : table.header) std::replace(name.begin(), name.end(), ' ', '_');
  const std::size_t n_figures = 4;
  if (!reference.empty()) {
    Cells cells{"unquantized", "unquantized", exact ? "" : "-", exact ? "" : "-"};
    for (const Measurement& figure : measured) cells.push_back(figure_cell(reference, figure, exact));
    cells.resize(cells.size() + n_figures, exact ? "" : "-");
    table.rows.push_back(std::move(cells));
  }
  for (const Row& row : rows) {
    const auto number = [&](double value, int digits) {
      return exact ? fmt::format("{}", value) : fmt::format("{:.{}f}", value, digits);
    };
    Cells cells{row.name, row.method, number(row.bits_nominal, 2), number(row.bits_true, 3)};
    for (const Measurement& figure : measured) cells.push_back(figure_cell(row.figures, figure, exact));
    cells.push_back(number(row.relative_error, 5));
    cells.push_back(number(minutes ? row.seconds / 60 : row.seconds, 1));
    cells.push_back(exact ? fmt::format("{}", row.peak_memory_bytes)
                          : core::format_bytes(static_cast<double>(row.peak_memory_bytes)));
    cells.push_back(fmt::format("{}", row.n_failures));
    table.rows.push_back(std::move(cells));
  }
  return table;
}

std::string text_of(const Table& table) {
  std::vector<std::size_t> width(table.header.size());
  const auto widen = [&](const Cells& cells) {
    for (std::size_t i = 0; i < cells.size(); ++i) width[i] = std::max(width[i], cells[i].size());
  };
  widen(table.header);
  std::for_each(table.rows.begin(), table.rows.end(), widen);
  std::string text;
  const auto add = [&](const Cells& cells) {
    std::string line;
    for (std::size_t i = 0; i < cells.size(); ++i)
      line +=
          table.is_words(i) ? fmt::format("{:<{}}  ", cells[i], width[i]) : fmt::format("{:>{}}  ", cells[i], width[i]);
    line.erase(line.find_last_not_of(' ') + 1);
    text += line + "\n";
  };
  add(table.header);
  std::for_each(table.rows.begin(), table.rows.end(), add);
  return text;
}

std::string markdown_of(const Table& table) {
  std::string text;
  const auto add = [&](const Cells& cells) {
    for (const std::string& cell : cells) {
      std::string escaped;
      for (const char c : cell) escaped += c == '|' ? std::string("\\|") : std::string(1, c);
      text += "| " + escaped + " ";
    }
    text += "|\n";
  };
  add(table.header);
  for (std::size_t i = 0; i < table.header.size(); ++i) text += table.is_words(i) ? "|---" : "|---:";
  text += "|\n";
  std::for_each(table.rows.begin(), table.rows.end(), add);
  return text;
}

std::string csv_of(const Table& table) {
  std::string text;
  const auto add = [&](const Cells& cells) {
    std::string separator;
    for (const std::string& cell : cells) {
      text += separator;
      separator = ",";
      if (cell.find_first_of(",\"\n\r") == std::string::npos) {
        text += cell;
        continue;
      }
      text += '"';
      for (const char c : cell) text += c == '"' ? std::string("\"\"") : std::string(1, c);
      text += '"';
    }
    text += "\r\n";
  };
  add(table.header);
  std::for_each(table.rows.begin(), table.rows.end(), add);
  return text;
}

}  // namespace

Comparison make_comparison(const std::vector<store::RunPaths>& runs, const ComparisonView& view) {
  Measurements reference;
  std::vector<Row> rows;
  for (const store::RunPaths& run : runs) rows.push_back(row_of(run, reference));
  std::stable_sort(rows.begin(), rows.end(), [](const Row& a, const Row& b) { return a.bits_true < b.bits_true; });
  Measurements all = reference;
  for (const Row& row : rows) all.insert(row.figures.begin(), row.figures.end());
  std::vector<Measurement> measured;
  for (const auto& [figure, value] : all) measured.push_back(figure);

  std::vector<Measurement> brief;
  std::copy_if(measured.begin(), measured.end(), std::back_inserter(brief),
               [](const Measurement& figure) { return figure.is_brief(); });
  const Table whole = table_of(rows, reference, measured, Form::whole),
              shown = view.brief ? table_of(rows, reference, brief, Form::minutes) : whole;
  Comparison comparison;
  comparison.text = text_of(shown);
  comparison.markdown = markdown_of(shown) + "\n";
  if (view.brief && brief.size() < measured.size())
    comparison.markdown += "All figures:\n\n" + markdown_of(whole) + "\n";
  for (const Measurement& figure : measured)
    comparison.markdown +=
        fmt::format("- {} of {}: {}\n", figure.metric, core::printable(figure.task), protocol_text(figure.protocol));
  comparison.markdown +=
      "- true bits count all that is stored of the quantized linears; the relative error is the mean over them of "
      "tr((W-Q) H (W-Q)^T) / tr(W H W^T)\n"
      "- seconds are a run's share of the wall time of all ranks by the time that its layers took, without the "
      "calibration that all share; peak memory is that of the largest rank of the job\n";
  comparison.csv = csv_of(table_of(rows, reference, measured, Form::exact));
  if (view.quoted.rows.empty()) return comparison;
  const std::vector<Cells> cells = quoted_cells(view.quoted);
  const Table quoted{cells.front(), {cells.begin() + 1, cells.end()}, 1};
  comparison.markdown +=
      fmt::format("\n## {}\n\n{}\n\n{}", quoted_heading(), quoted_note(view.quoted), markdown_of(quoted));
  comparison.quoted_csv = csv_of(quoted);
  if (view.quoted.of_this_model) comparison.text += fmt::format("\n{}\n{}", quoted_heading(), text_of(quoted));
  return comparison;
}

}  // namespace voronoi::validation
