// What eval and generate work on: anything that holds a model.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "model/weights.h"
#include "store/run_directory.h"

namespace voronoi::run {

/// An original model, a run with its original, or a checkpoint whose original is not at hand.
struct Subject {
  std::string content;  ///< fingerprint of source(): of a run, of the layers its journal names
  std::string tokenizer, method = "unquantized", label = "unquantized";
  std::shared_ptr<model::WeightSource> original;   ///< null for a checkpoint
  std::unique_ptr<model::WeightSource> quantized;  ///< null for an original model
  std::optional<store::RunPaths> run;
  std::optional<double> bits_true, bits_nominal;

  /// The quantized weights, or the original's.
  const model::WeightSource& source() const { return quantized ? *quantized : *original; }
};

/// path: a model directory, GGUF file, run directory or VPTQ checkpoint; `original`: where the model of a run is, when
/// it moved. Throws FormatError / StoreError; a run must be finished.
Subject open_subject(const std::string& path, const std::string& original = "");
/// The same of a run whose layers are there as far as they will be, before its end is journalled.
Subject open_quantized_run(const std::string& path);

/// Has `path`, an unquantized model, stand beside a checkpoint or another model; a run keeps its own original. Throws
/// FormatError / StoreError.
void set_reference(Subject& subject, const std::string& path);

/// Reads every file of a checkpoint against its manifest, when it has one: a flipped bit in an index or a codebook
/// would otherwise pass for another model. Nothing for other paths: the shards of a run are checked as they are read.
/// Throws FormatError naming the file.
void require_whole_export(const std::string& path);

}  // namespace voronoi::run
