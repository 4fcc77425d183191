// Texts through models: perplexity, and how far a quantized model's predictions are from the unquantized one's.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "backend/device.h"
#include "comm/mpi.h"
#include "model/tokenizer.h"
#include "run/subject.h"
#include "validation/evaluation.h"

namespace voronoi::validation {

/// The protocol, as options give it.
struct TextOptions {
  std::vector<std::string> texts;  ///< paths
  std::string names;               ///< by commas, one a text; empty: the files' own
  std::string join = "auto";       ///< auto, or a name of model::Join; by commas one a text, or one for all
  std::string bos = "auto";        ///< auto, always, never
  std::string tokenizer;           ///< path; empty: each subject's own
  std::string dtype = "auto";      ///< of model::dtype_choices()
  std::int64_t context = 2048;
  std::int64_t windows = 0;     ///< at most so many from the start; 0: all
  bool divergence = false;      ///< KL, its 99th percentile and top-1 agreement besides, where there is a reference
  std::int64_t batch = 0;       ///< windows a rank takes at a time; 0: as many as fit
  std::string reference_cache;  ///< directory for windows of unquantized models; empty: runs keep their original's
  std::function<void(const std::string&)> doing;  ///< called on rank 0 after every block, with where it is
};

/// What is wrong with names and joins of the texts.
std::vector<std::string> text_problems(const TextOptions& options);

/// That every text can be read and gives a window: before hours of work rather than behind them. Throws as
/// model::load_text and leading_windows do. chat: the model's.
void check_texts(const TextOptions& options, const model::Tokenizer& tokenizer, model::ModelChat& chat);

/// Collective; text_problems() has found none. Windows that are done are kept while it runs, so that an interrupted
/// evaluation goes on; those of an unquantized model beyond it, so that it is computed once a text and protocol.
/// Figures that a run keeps (store_evaluation) of the same weights, text and protocol are told again, not computed
/// again. Throws as the passes do (validation/text_pass.h), and what `tell` throws.
void evaluate_texts(const comm::Communicator& world, backend::Context& context,
                    const std::vector<run::Subject>& subjects, const TextOptions& options, const TellResults& tell);

}  // namespace voronoi::validation
