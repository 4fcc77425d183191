#include "model/tokenizer.h"

#include <filesystem>
#include <fstream>

#include "core/error.h"
#include "model/bpe_tokenizer.h"
#include "model/sentencepiece_tokenizer.h"
#include "model/tokenizer_files.h"

namespace voronoi::model {
namespace {

namespace fs = std::filesystem;

bool is_gguf(const fs::path& path) {
  if (path.extension() == ".gguf") return true;
  std::ifstream file(path, std::ios::binary);
  char magic[4] = {};
  return file.read(magic, 4) && std::string_view(magic, 4) == "GGUF";
}

std::unique_ptr<Tokenizer> open_sentencepiece(const fs::path& path) {
  // LlamaTokenizer adds BOS unless its configuration says otherwise.
  const TokenizerConfig config = read_tokenizer_config((path.parent_path() / "tokenizer_config.json").string());
  return std::make_unique<SentencepieceTokenizer>(path.string(), config.add_bos.value_or(true));
}

std::unique_ptr<Tokenizer> open_json(const fs::path& path) {
  const TokenizerConfig config = read_tokenizer_config((path.parent_path() / "tokenizer_config.json").string());
  return std::make_unique<BpeTokenizer>(read_tokenizer_json(path.string(), config));
}

std::unique_ptr<Tokenizer> open_directory(const fs::path& path) {
  if (fs::exists(path / "tokenizer.json")) return open_json(path / "tokenizer.json");
  if (fs::exists(path / "tokenizer.model")) return open_sentencepiece(path / "tokenizer.model");
  if (fs::exists(path / "vocab.json") && fs::exists(path / "merges.txt")) {
    const TokenizerConfig config = read_tokenizer_config((path / "tokenizer_config.json").string());
    return std::make_unique<BpeTokenizer>(
        read_vocab_and_merges((path / "vocab.json").string(), (path / "merges.txt").string(), config));
  }
  throw core::FormatError(path.string(), "holds no tokenizer: put the model's tokenizer.json or tokenizer.model there");
}

}  // namespace

std::unique_ptr<Tokenizer> open_tokenizer(const std::string& path) {
  std::error_code error;
  const fs::file_status status = fs::status(path, error);
  if (!fs::exists(status))
    throw core::StoreError(path + ": cannot open: " + (error ? error.message() : "no such file") + "; check the path");
  if (fs::is_directory(status)) return open_directory(path);
  if (is_gguf(path)) return std::make_unique<BpeTokenizer>(read_gguf_vocabulary(path));
  if (fs::path(path).extension() == ".json") return open_json(path);
  if (fs::path(path).extension() == ".model") return open_sentencepiece(path);
  throw core::FormatError(
      path, "is not a tokenizer: give a model directory, a *.gguf file, a tokenizer.json or a *.model file");
}

}  // namespace voronoi::model
