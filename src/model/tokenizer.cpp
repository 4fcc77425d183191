#include "model/tokenizer.h"

#include <filesystem>

#include "core/error.h"
#include "model/bpe_tokenizer.h"
#include "model/gguf.h"
#include "model/sentencepiece_tokenizer.h"
#include "model/tokenizer_files.h"

namespace voronoi::model {
namespace {

namespace fs = std::filesystem;

/// The folder that a file lies in.
std::string folder_of(const fs::path& file) { return file.parent_path().empty() ? "." : file.parent_path().string(); }

std::unique_ptr<Tokenizer> open_sentencepiece(const fs::path& path) {
  return std::make_unique<SentencepieceTokenizer>(path.string(), read_tokenizer_settings(folder_of(path)));
}

std::unique_ptr<Tokenizer> open_json(const fs::path& path) {
  return std::make_unique<BpeTokenizer>(read_tokenizer_json(path.string(), read_tokenizer_settings(folder_of(path))));
}

std::unique_ptr<Tokenizer> open_directory(const fs::path& path) {
  if (fs::exists(path / "tokenizer.json")) return open_json(path / "tokenizer.json");
  if (fs::exists(path / "tokenizer.model")) return open_sentencepiece(path / "tokenizer.model");
  if (fs::exists(path / "vocab.json") && fs::exists(path / "merges.txt"))
    return std::make_unique<BpeTokenizer>(read_vocab_and_merges(
        (path / "vocab.json").string(), (path / "merges.txt").string(), read_tokenizer_settings(path.string())));
  throw core::FormatError(path.string(), "holds no tokenizer: put the model's tokenizer.json or tokenizer.model there");
}

}  // namespace

std::unique_ptr<Tokenizer> open_tokenizer(const std::string& path) {
  std::error_code error;
  const fs::file_status status = fs::status(path, error);
  if (!fs::exists(status))
    throw core::StoreError(path + ": cannot open: " + (error ? error.message() : "no such file") + "; check the path");
  if (fs::is_directory(status)) return open_directory(path);
  if (is_gguf_file(path)) return std::make_unique<BpeTokenizer>(read_gguf_vocabulary(path));
  if (fs::path(path).extension() == ".json") return open_json(path);
  if (fs::path(path).extension() == ".model") return open_sentencepiece(path);
  throw core::FormatError(
      path, "is not a tokenizer: give a model directory, a *.gguf file, a tokenizer.json or a *.model file");
}

}  // namespace voronoi::model
