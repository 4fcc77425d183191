#include "export/hf_files.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <filesystem>
#include <string_view>
#include <vector>

#include "core/error.h"
#include "core/file.h"
#include "core/log.h"
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
constexpr std::array<const char*, 5> kTokenizerFiles{"tokenizer.json", "tokenizer.model", "vocab.json", "merges.txt",
                                                     "tekken.json"};
constexpr const char *kTemplates = "additional_chat_templates", *kTokenizerConfig = "tokenizer_config.json";
/// How the names of licences and notices begin, in small letters.
constexpr std::array<std::string_view, 5> kTerms{"license", "licence", "notice", "copying", "use_policy"};

template <std::size_t n>
void take(const fs::path& folder, const std::array<const char*, n>& names, std::map<std::string, std::string>& files) {
  for (const char* name : names)
    if (fs::is_regular_file(folder / name)) files[name] = core::read_text_file(folder / name, kMaxCompanionBytes);
}

void take_templates(const fs::path& folder, std::map<std::string, std::string>& files) {
  if (!fs::is_directory(folder / kTemplates)) return;
  for (const auto& entry : fs::directory_iterator(folder / kTemplates))
    if (entry.is_regular_file() && entry.path().extension() == ".jinja")
      files[std::string(kTemplates) + "/" + entry.path().filename().string()] =
          core::read_text_file(entry.path(), kMaxCompanionBytes);
}

void take_terms(const fs::path& folder, std::map<std::string, std::string>& files) {
  for (const auto& entry : fs::directory_iterator(folder)) {
    std::string name = entry.path().filename().string();
    std::transform(name.begin(), name.end(), name.begin(), [](unsigned char c) { return std::tolower(c); });
    const bool terms =
        std::any_of(kTerms.begin(), kTerms.end(), [&](std::string_view begin) { return name.starts_with(begin); });
    if (terms && entry.is_regular_file())
      files[entry.path().filename().string()] = core::read_text_file(entry.path(), kMaxCompanionBytes);
  }
}

/// Modules beside a module of Python that it takes names from: "from .name import ...".
std::vector<std::string> imported_modules(std::string_view code) {
  std::vector<std::string> names;
  constexpr std::string_view kFrom = "from .";
  for (std::size_t at = code.find(kFrom); at != std::string_view::npos; at = code.find(kFrom, at + 1)) {
    const std::string_view rest = code.substr(at + kFrom.size());
    const std::size_t end = rest.find_first_not_of("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_");
    if (end != 0 && end != std::string_view::npos) names.emplace_back(rest.substr(0, end));
  }
  return names;
}

/// The code behind a name, with what it takes from its neighbours; false when some of it is not there.
bool take_code(const fs::path& folder, const std::string& module, std::map<std::string, std::string>& files) {
  const std::string name = module + ".py";
  if (files.contains(name)) return true;
  if (!fs::is_regular_file(folder / name)) return false;
  const std::string& code = files[name] = core::read_text_file(folder / name, kMaxCompanionBytes);
  const std::vector<std::string> modules = imported_modules(code);
  return std::all_of(modules.begin(), modules.end(),
                     [&](const std::string& inner) { return take_code(folder, inner, files); });
}

/// Modules that an "auto_map" names, "tokenization_x" of "tokenization_x.Class". Those of another repository
/// ("owner/name--module.Class") are found there.
void collect_modules(const core::Json& value, std::vector<std::string>& modules) {
  if (value.is_structured())
    for (const core::Json& inner : value) collect_modules(inner, modules);
  if (!value.is_string()) return;
  const auto& name = value.get_ref<const std::string&>();
  if (name.find("--") == std::string::npos && name.find('/') == std::string::npos)
    modules.push_back(name.substr(0, name.find('.')));
}

/// Takes along the code that the tokenizer's settings name, or takes the names out.
void settle_tokenizer_code(const fs::path& folder, std::map<std::string, std::string>& files) {
  const auto settings = files.find(kTokenizerConfig);
  if (settings == files.end()) return;
  core::Json json = core::parse_json(settings->second, (folder / kTokenizerConfig).string());
  if (!json.is_object() || !json.contains("auto_map")) return;
  std::vector<std::string> modules;
  collect_modules(json.at("auto_map"), modules);
  std::map<std::string, std::string> code;
  if (std::all_of(modules.begin(), modules.end(),
                  [&](const std::string& module) { return take_code(folder, module, code); })) {
    files.merge(code);
    return;
  }
  core::log_warning("{}: \"auto_map\" names code that is not in the folder; the export is without it",
                    (folder / kTokenizerConfig).string());
  json.erase("auto_map");
  settings->second = json.dump(2) + "\n";
}

bool is_hugging_face(const std::string& model) { return fs::is_directory(model); }

}  // namespace

core::Json original_config(const std::string& model, const model::ModelConfig& read) {
  core::Json config;
  if (is_hugging_face(model)) {
    const std::string file = (fs::path(model) / "config.json").string();
    config = core::parse_json(core::read_text_file(file, model::kMaxConfigBytes), file);
    config.erase("quantization_config");
    config.erase("auto_map");
    // Gemma's class ties where nothing is said.
    if (!read.tied_embeddings && (read.norm_plus_one || config.contains("tie_word_embeddings")))
      config["tie_word_embeddings"] = false;
  } else {
    config = model::gguf_config_json(model);
  }
  const char* name = read.stored_dtype == core::DType::bf16 ? "bfloat16" : "float16";
  config["torch_dtype"] = name;
  if (config.contains("dtype")) config["dtype"] = name;  // the newer spelling wins where both stand
  return config;
}

std::map<std::string, std::string> companion_files(const std::string& model, const std::string& tokenizer) {
  std::map<std::string, std::string> files;
  if (is_hugging_face(model)) {
    take(model, kModelFiles, files);
    take_templates(model, files);
    take_terms(model, files);
  }
  const fs::path path(tokenizer);
  if (fs::is_directory(path)) {
    take(path, kTokenizerSettings, files);
    take(path, kTokenizerFiles, files);
    settle_tokenizer_code(path, files);
  } else if (path.extension() == ".json" || path.extension() == ".model") {
    const fs::path folder = path.parent_path().empty() ? fs::path(".") : path.parent_path();
    take(folder, kTokenizerSettings, files);
    settle_tokenizer_code(folder, files);
    files[path.extension() == ".json" ? "tokenizer.json" : "tokenizer.model"] =
        core::read_text_file(path, kMaxCompanionBytes);
  } else {
    for (auto& [name, content] : model::gguf_tokenizer_files(tokenizer)) files[name] = std::move(content);
  }
  return files;
}

}  // namespace voronoi::exporting
