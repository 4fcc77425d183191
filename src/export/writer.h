// A Hugging Face directory in a public layout, written layer by layer.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "export/layout.h"
#include "export/manifest.h"
#include "export/model_card.h"
#include "format/encoding.h"
#include "model/weights.h"

namespace voronoi::exporting {

inline constexpr std::int64_t kMaxFileBytes = 5'000'000'000;

struct ExportRequest {
  const model::WeightSource* original = nullptr;
  const model::WeightSource* tensors = nullptr;  ///< values of what is no linear; null: the original's
  std::string tokenizer;                         ///< directory or file that open_tokenizer() takes
  /// A quantized linear by its full name; called twice for each: to check and plan, then to write.
  std::function<format::Encoding(const std::string& linear)> encoding;
  std::set<std::string> unquantized;  ///< linears that are stored as they are
  Manifest origin;                    ///< run, method, profile and the layers with the sums of their shards
  const Layout* layout = nullptr;
  std::vector<CardFigure> figures;  ///< for the model card
  std::int64_t max_file_bytes = kMaxFileBytes;
  /// Told after each layer, checked or written; may throw to give up.
  std::function<void(const std::string& stage, std::size_t done, std::size_t total)> progress;
};

/// Writes config.json, safetensors files with their index, tokenizer and generation files, README.md and the manifest
/// to the directory `temporary`, which is made on the same file system, syncs it and renames it to `directory`. That
/// must not be there, or be empty. Every linear of every block must be quantized or among `unquantized`. All floating
/// tensors are stored in the model's 16-bit type; a tied head is stored too, since the client's own loader does not
/// tie. Scales of columns are folded (export/scale_folding.h). What the original has beside the language model is
/// copied as it is stored; within a wrapper all tensors keep the original's names. At most one layer, or one other
/// tensor in F32, is held at a time. Nothing stays behind on failure; `temporary` is locked (flock) as long as it is
/// there. Throws ConfigError with every reason why the format cannot hold the run, FormatError, StoreError.
void write_checkpoint(const ExportRequest& request, const std::filesystem::path& directory,
                      const std::filesystem::path& temporary);

/// Removes the directories "<prefix><digits>" that nobody holds locked: `temporary` of processes that were killed. The
/// prefix must name this host, since there are file systems that keep locks to themselves.
void remove_abandoned(const std::filesystem::path& prefix);

}  // namespace voronoi::exporting
