// What a run keeps of its evaluations: groups of results in RUN/evaluations.
#pragma once

#include <string>
#include <vector>

#include "store/run_directory.h"
#include "validation/result.h"

namespace voronoi::validation {

/// The results of one measurement (a text, or tasks, under one protocol), and the unquantized model's.
struct Evaluation {
  std::vector<Result> results;    ///< of the run, at least one
  std::vector<Result> reference;  ///< may be empty
};

/// Whether a run is somebody else's or on a read-only file system: commands that read it then print and keep nothing.
bool is_read_only(const store::RunPaths& paths);

/// One file a measurement, named by tasks, metrics and protocol: a later one takes the place of the same of before.
/// Throws StoreError.
void store_evaluation(const store::RunPaths& paths, const Evaluation& evaluation);
/// In the order of their files' names. Throws FormatError / StoreError.
std::vector<Evaluation> stored_evaluations(const store::RunPaths& paths);

}  // namespace voronoi::validation
