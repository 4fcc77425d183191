// Rows of a report as the page shows them: one figure each, whichever version wrote it.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "validation/report.h"

namespace voronoi::validation {

struct Figure {
  std::string model, method, label, task, metric;
  std::optional<double> bits_true, bits_nominal;  ///< nothing: of the unquantized model
  double value = 0;
  std::optional<double> error;      ///< standard error
  std::optional<double> reference;  ///< the unquantized model's
  std::optional<double> reference_error;
  std::int64_t n = 0;        ///< predictions or questions
  std::size_t protocol = 0;  ///< index into Figures::protocols
  std::optional<double> quantize_seconds, peak_memory;
  bool quantized() const { return bits_true.has_value(); }
};

struct Figures {
  std::vector<Figure> all;             ///< in the order of the rows
  std::vector<std::string> protocols;  ///< each once
};

/// Rows of one task, metric and protocol: what may be compared.
struct FigureGroup {
  std::string task, metric;
  std::size_t protocol = 0;
  std::vector<const Figure*> rows;  ///< the unquantized model first
};

/// A row of a version that knew only perplexity is one of that metric. A row that lacks its task or value is left out.
Figures read_figures(const Report& report);
std::vector<FigureGroup> grouped(const Figures& figures);

/// The section of the page: tables and pictures of all figures, and their protocols; a hint where there are none.
std::string figures_section(const Figures& figures);
/// An SVG file: perplexity over true bits, a plot a text (and protocol) that several runs were evaluated on; empty
/// without.
std::string perplexity_picture(const Figures& figures);
/// "On wiki.test the perplexity is 24.3 beside 20.7 of the unquantized model (+17.4 %)." of one run; empty without.
std::string figures_sentence(const Figures& figures);

}  // namespace voronoi::validation
