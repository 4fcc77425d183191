#include "export/hf_files.h"

#include <array>
#include <filesystem>

#include "core/error.h"
#include "core/file.h"
#include "model/gguf_weights.h"
#include "model/tokenizer_writer.h"
#include "model/weights.h"

namespace voronoi::exporting {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t kMaxCompanionBytes = std::size_t{1} << 30;
constexpr std::array<const char*, 3> kModelFiles{"generation_config.json", "chat_template.jinja", "chat_template.json"};
constexpr std::array<const char*, 3> kTokenizerSettings{"tokenizer_config.json", "special_tokens_map.json",
                                                        "added_tokens.json"};
constexpr std::array<const char*, 4> kTokenizerFiles{"tokenizer.json", "tokenizer.model", "vocab.json", "merges.txt"};

template <std::size_t n>
void take(const fs::path& folder, const std::array<const char*, n>& names, std::map<std::string, std::string>& files) {
  for (const char* name : names)
    if (fs::is_regular_file(folder / name)) files[name] = core::read_text_file(folder / name, kMaxCompanionBytes);
}

bool is_hugging_face(const std::string& model) { return fs::is_directory(model); }

}  // namespace

core::Json original_config(const std::string& model, core::DType dtype) {
  core::Json config;
  if (is_hugging_face(model)) {
    const std::string file = (fs::path(model) / "config.json").string();
    config = core::parse_json(core::read_text_file(file, model::kMaxConfigBytes), file);
    config.erase("quantization_config");
  } else {
    config = model::gguf_config_json(model);
  }
  const char* name = dtype == core::DType::bf16 ? "bfloat16" : "float16";
  config["torch_dtype"] = name;
  if (config.contains("dtype")) config["dtype"] = name;  // the newer spelling wins where both stand
  return config;
}

std::map<std::string, std::string> companion_files(const std::string& model, const std::string& tokenizer) {
  std::map<std::string, std::string> files;
  if (is_hugging_face(model)) take(model, kModelFiles, files);
  const fs::path path(tokenizer);
  if (fs::is_directory(path)) {
    take(path, kTokenizerSettings, files);
    take(path, kTokenizerFiles, files);
  } else if (path.extension() == ".json" || path.extension() == ".model") {
    take(path.parent_path().empty() ? fs::path(".") : path.parent_path(), kTokenizerSettings, files);
    files[path.extension() == ".json" ? "tokenizer.json" : "tokenizer.model"] =
        core::read_text_file(path, kMaxCompanionBytes);
  } else {
    for (auto& [name, content] : model::gguf_tokenizer_files(tokenizer)) files[name] = std::move(content);
  }
  return files;
}

}  // namespace voronoi::exporting
