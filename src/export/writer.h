// A Hugging Face directory in a public layout, written file by file and layer by layer.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "export/layout.h"
#include "export/manifest.h"
#include "export/model_card.h"
#include "export/profile.h"
#include "export/unfinished.h"
#include "format/encoding.h"
#include "model/weights.h"

namespace voronoi::exporting {

struct ExportRequest {
  const model::WeightSource* original = nullptr;
  const model::WeightSource* tensors = nullptr;  ///< values of what is no linear; null: the original's
  std::string tokenizer;                         ///< directory or file that open_tokenizer() takes
  /// A quantized linear by its full name; called to check and plan, then to write each file that holds some of it.
  std::function<format::Encoding(const std::string& linear)> encoding;
  std::set<std::string> unquantized;  ///< linears that are stored as they are
  Manifest origin;                    ///< run, method, profile and the layers with the sums of their shards
  const Layout* layout = nullptr;
  std::vector<CardFigure> figures;  ///< for the model card
  std::int64_t max_file_bytes = kMaxFileBytes;
  /// Told after each layer, checked or written, how many are so far here; may throw to give up.
  std::function<void(const std::string& stage, std::size_t done, std::size_t total)> progress;
};

/// A checkpoint on its way into an unfinished directory. All that takes time is a numbered thing that needs nothing of
/// the others: ranks divide first the layers, which are looked at before anything is written, then the safetensors
/// files. Its bytes do not depend on who did what, nor on how often it was begun.
///
/// Every linear of every block must be quantized or among `unquantized`. All floating tensors are stored in the model's
/// 16-bit type; a tied head is stored too, since the client's own loader does not tie. Scales of columns are folded
/// (export/scale_folding.h). What the original has beside the language model is copied as it is stored; within a
/// wrapper all tensors keep the original's names. At most one layer, or one other tensor in F32, is held at a time.
class CheckpointWriter {
 public:
  /// Both must outlive it.
  CheckpointWriter(const ExportRequest& request, const UnfinishedExport& place);
  ~CheckpointWriter();
  CheckpointWriter(const CheckpointWriter&) = delete;
  CheckpointWriter& operator=(const CheckpointWriter&) = delete;

  std::size_t n_layers() const;
  /// Reads a layer: what is to be known of it, for plan(). Throws FormatError, StoreError.
  std::string look_at(std::size_t layer);
  /// Of all layers, in their order. Throws ConfigError with every reason why the format cannot hold the run, the same
  /// wherever it is called.
  void plan(const std::vector<std::string>& looks);

  std::size_t n_files() const;
  /// Creates the unfinished directory, or takes out of it what is none of this checkpoint; by one rank, before any file
  /// is written.
  void begin() const;
  /// Writes a file, syncs it, renames it and sums it, unless it is there and whole; says what finish() is to know. Of a
  /// file that fails nothing stays. Throws ConfigError, FormatError (BadValues among them), StoreError.
  std::string write_file(std::size_t file);
  /// What makes a checkpoint of the files, by one rank: index, tokenizer and generation files, config.json, README.md
  /// and last the manifest; all synced. `written`: of all files, in their order.
  void finish(const std::vector<std::string>& written);

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

/// What is none of an unfinished directory's business any more, whatever has happened: it goes, unless it holds files
/// that another try need not write again.
void leave_unfinished(const UnfinishedExport& place);

/// Throws ConfigError when the directory is there and not empty.
void require_room_for_export(const std::filesystem::path& directory);
/// Renames the finished directory. Throws StoreError.
void publish_export(const UnfinishedExport& place, const std::filesystem::path& directory);

/// All of that by one process: `directory` is there whole or not at all; what a killed process left in `unfinished`,
/// which is on the same file system, is gone on with. Throws ConfigError, FormatError, StoreError.
void write_checkpoint(const ExportRequest& request, const std::filesystem::path& directory,
                      const std::filesystem::path& unfinished);

}  // namespace voronoi::exporting
