// Evaluations of a model or a run: what `eval` prints, a run keeps, and `report` shows.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "core/json.h"
#include "store/run_directory.h"

namespace voronoi::validation {

/// One figure with its protocol; the field names are the contract of `eval --json` and report.json.
struct Evaluation {
  std::string model, method, label, text, text_sha256, join, bos, dtype;
  std::int64_t context = 0, windows = 0, tokens = 0;
  double nll = 0, perplexity = 0, seconds = 0;
  std::optional<double> bits_true, bits_nominal;  ///< null for an unquantized model
  std::optional<double> reference_perplexity;     ///< unquantized model, same protocol, same program run
};

core::Json to_json(const Evaluation& evaluation);
Evaluation evaluation_from_json(const core::Json& json);

/// "context 2048, 16 windows, 32752 predictions, join wikitext, bos none, dtype float32"
std::string protocol_text(const Evaluation& evaluation);

/// Whether a run is somebody else's or on a read-only file system: commands that read it then print and keep nothing.
bool is_read_only(const store::RunPaths& paths);

/// Keeps evaluations of a run in RUN/evaluations, one file a text and protocol.
void store_evaluation(const store::RunPaths& paths, const Evaluation& evaluation,
                      const std::optional<Evaluation>& reference);
struct StoredEvaluation {
  Evaluation quantized;
  std::optional<Evaluation> reference;
};
std::vector<StoredEvaluation> stored_evaluations(const store::RunPaths& paths);

}  // namespace voronoi::validation
