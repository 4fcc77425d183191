#include "validation/comparison.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <map>
#include <numeric>
#include <optional>

#include "core/log.h"
#include "run/run_model.h"
#include "run/run_state.h"
#include "validation/evaluation.h"

namespace voronoi::validation {
namespace {

/// Text and protocol, in the order in which they are shown.
struct Protocol {
  std::string text, sha256, protocol;
  auto operator<=>(const Protocol&) const = default;
};

using Perplexities = std::map<Protocol, double>;

struct Row {
  std::string name, method;
  double bits_nominal = 0, bits_true = 0, relative_error = 0, seconds = 0;
  std::int64_t peak_memory_bytes = 0;
  std::size_t n_failures = 0;
  Perplexities perplexities;
};

Protocol protocol_of(const Evaluation& e) {
  return {std::filesystem::path(e.text).filename().string(), e.text_sha256, protocol_text(e)};
}

/// `reference`: those of the unquantized model are put there.
Row row_of(const store::RunPaths& run, Perplexities& reference) {
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
  for (const StoredEvaluation& stored : stored_evaluations(run)) {
    row.perplexities[protocol_of(stored.quantized)] = stored.quantized.perplexity;
    if (stored.reference) reference[protocol_of(*stored.reference)] = stored.reference->perplexity;
  }
  return row;
}

using Cells = std::vector<std::string>;

/// Headings first. The first two columns are words, the others numbers.
struct Table {
  Cells header;
  std::vector<Cells> rows;
};
constexpr std::size_t kWords = 2;

std::string perplexity_cell(const Perplexities& perplexities, const Protocol& protocol, bool exact) {
  const auto found = perplexities.find(protocol);
  if (found == perplexities.end()) return exact ? "" : "-";
  return exact ? fmt::format("{}", found->second) : fmt::format("{:.4f}", found->second);
}

/// exact: all digits and plain units, for programs.
Table table_of(const std::vector<Row>& rows, const Perplexities& reference, const std::vector<Protocol>& protocols,
               bool exact) {
  Table table;
  table.header =
      exact ? Cells{"run", "method", "bits_nominal", "bits_true"} : Cells{"run", "method", "nominal bits", "true bits"};
  for (const Protocol& protocol : protocols) table.header.push_back((exact ? "perplexity " : "") + protocol.text);
  for (const char* name : {"relative error", "seconds", "peak memory", "failures"}) table.header.emplace_back(name);
  if (exact)
    for (std::string& name : table.header) std::replace(name.begin(), name.end(), ' ', '_');
  const std::size_t n_figures = 4;
  if (!reference.empty()) {
    Cells cells{"unquantized", "unquantized", exact ? "" : "-", exact ? "" : "-"};
    for (const Protocol& protocol : protocols) cells.push_back(perplexity_cell(reference, protocol, exact));
    cells.resize(cells.size() + n_figures, exact ? "" : "-");
    table.rows.push_back(std::move(cells));
  }
  for (const Row& row : rows) {
    const auto number = [&](double value, int digits) {
      return exact ? fmt::format("{}", value) : fmt::format("{:.{}f}", value, digits);
    };
    Cells cells{row.name, row.method, number(row.bits_nominal, 2), number(row.bits_true, 3)};
    for (const Protocol& protocol : protocols) cells.push_back(perplexity_cell(row.perplexities, protocol, exact));
    cells.push_back(number(row.relative_error, 5));
    cells.push_back(number(row.seconds, 1));
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
      line += i < kWords ? fmt::format("{:<{}}  ", cells[i], width[i]) : fmt::format("{:>{}}  ", cells[i], width[i]);
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
  for (std::size_t i = 0; i < table.header.size(); ++i) text += i < kWords ? "|---" : "|---:";
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

Comparison make_comparison(const std::vector<store::RunPaths>& runs) {
  Perplexities reference;
  std::vector<Row> rows;
  for (const store::RunPaths& run : runs) rows.push_back(row_of(run, reference));
  std::stable_sort(rows.begin(), rows.end(), [](const Row& a, const Row& b) { return a.bits_true < b.bits_true; });
  Perplexities all = reference;
  for (const Row& row : rows) all.insert(row.perplexities.begin(), row.perplexities.end());
  std::vector<Protocol> protocols;
  for (const auto& [protocol, perplexity] : all) protocols.push_back(protocol);

  const Table shown = table_of(rows, reference, protocols, false);
  Comparison comparison;
  comparison.text = text_of(shown);
  comparison.markdown = markdown_of(shown) + "\n";
  for (const Protocol& protocol : protocols)
    comparison.markdown += fmt::format("- perplexity on {} (SHA-256 {}...): {}\n", protocol.text,
                                       protocol.sha256.substr(0, 16), protocol.protocol);
  comparison.markdown +=
      "- true bits count all that is stored of the quantized linears; the relative error is the mean over them of "
      "tr((W-Q) H (W-Q)^T) / tr(W H W^T)\n"
      "- seconds are a run's share of the wall time of all ranks by the time that its layers took, without the "
      "calibration that all share; peak memory is that of the largest rank of the job\n";
  comparison.csv = csv_of(table_of(rows, reference, protocols, true));
  return comparison;
}

}  // namespace voronoi::validation
