// What a run keeps of its evaluations: groups of results in RUN/evaluations.
#pragma once

#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "run/subject.h"
#include "store/run_directory.h"
#include "validation/result.h"

namespace voronoi::validation {

/// The results of one measurement (a text, or tasks, under one protocol), and the unquantized model's.
struct Evaluation {
  std::vector<Result> results;    ///< of the run, at least one
  std::vector<Result> reference;  ///< may be empty
  std::string key{};              ///< of all that decides the figures (of a text: window_key); empty: not told
};

/// Called on rank 0 with a subject's figures of each measurement, as they come: `reference` is empty for an unquantized
/// model, and for a checkpoint without one.
using TellResults = std::function<void(const run::Subject& subject, const Evaluation& evaluation)>;

/// model, method, label, bits_true and bits_nominal of a result of the subject's quantized weights, or its original's.
void describe(Result& result, const run::Subject& subject, bool quantized);

/// Where rank 0 keeps what it has computed of an original: every run's own directory, so that a run evaluated alone
/// later finds it, and the cache. Of quantized weights, while an evaluation is under way.
std::vector<std::filesystem::path> reference_directories(const std::vector<run::Subject>& subjects,
                                                         const std::string& cache, const std::string& fingerprint);
std::vector<std::filesystem::path> own_directories(const run::Subject& subject, const std::string& cache);

/// Whether a run is somebody else's or on a read-only file system: commands that read it then print and keep nothing.
bool is_read_only(const store::RunPaths& paths);

/// One file a measurement, named by tasks, metrics and protocol: a later one takes the place of the same of before.
/// Throws StoreError.
void store_evaluation(const store::RunPaths& paths, const Evaluation& evaluation);
/// In the order of their files' names. Throws FormatError / StoreError.
std::vector<Evaluation> stored_evaluations(const store::RunPaths& paths);
/// The first with this key; nothing where none has it. A file that cannot be read is warned of and counts as none: it
/// is computed again.
std::optional<Evaluation> find_stored_evaluation(const store::RunPaths& paths, const std::string& key);

}  // namespace voronoi::validation
