#include "model/tokenizer_settings.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cstdint>
#include <filesystem>
#include <map>
#include <string_view>
#include <utility>

#include "model/json_part.h"

namespace voronoi::model {
namespace {

namespace fs = std::filesystem;
using core::Json;
using namespace std::string_view_literals;

constexpr std::array kSpecialNames{"bos_token"sv, "eos_token"sv, "unk_token"sv, "sep_token"sv,
                                   "pad_token"sv, "cls_token"sv, "mask_token"sv};
constexpr std::string_view kMoreSpecial = "additional_special_tokens";

/// A token's name, or an object with its flags.
AddedToken read_token(const Json& value, const Part& place, std::string_view key, bool special) {
  AddedToken token;
  token.special = special;
  if (value.is_string()) {
    token.text = value.get<std::string>();
    return token;
  }
  if (!value.is_object()) place.fail(std::string(key) + " is neither a string nor an object");
  const Part part(value, place.file(), std::string(key));
  token.text = part.text("content");
  token.lstrip = part.flag("lstrip", false);
  token.rstrip = part.flag("rstrip", false);
  token.single_word = part.flag("single_word", false);
  token.special = part.flag("special", special);
  token.normalized = part.flag("normalized", !token.special);
  return token;
}

/// By key, so that a later file's entry takes the place of an earlier one's.
using Specials = std::map<std::string, std::vector<AddedToken>, std::less<>>;

void read_specials(const Part& part, Specials& specials) {
  for (const std::string_view key : kSpecialNames)
    if (const Json* value = part.find(key)) specials[std::string(key)] = {read_token(*value, part, key, true)};
  const Json* more = part.find(kMoreSpecial);
  if (more == nullptr || !more->is_array()) return;
  std::vector<AddedToken>& tokens = specials[std::string(kMoreSpecial)];
  tokens.clear();
  for (const Json& value : *more) tokens.push_back(read_token(value, part, kMoreSpecial, true));
}

void read_added_decoder(const Part& decoder, const Json& entries, std::map<std::int32_t, AddedToken>& added) {
  for (const auto& item : entries.items()) {
    std::int32_t id = -1;
    const char* end = item.key().data() + item.key().size();
    if (const auto read = std::from_chars(item.key().data(), end, id);
        read.ec != std::errc() || read.ptr != end || id < 0)
      decoder.fail("has the key \"" + item.key() + "\", which is no id");
    added[id] = read_token(item.value(), decoder, item.key(), false);
    added[id].id = id;
  }
}

void read_added_file(const Part& file, const Json& entries, const Specials& specials,
                     std::map<std::int32_t, AddedToken>& added) {
  for (const auto& item : entries.items()) {
    if (!item.value().is_number_unsigned() || item.value().get<std::uint64_t>() > INT32_MAX)
      file.fail("\"" + item.key() + "\" has no id");
    AddedToken token{.text = item.key(), .id = item.value().get<std::int32_t>(), .normalized = true};
    for (const auto& [key, tokens] : specials)
      for (const AddedToken& one : tokens)
        if (one.text == token.text) token.special = true;
    token.normalized = !token.special;
    added[token.id] = std::move(token);
  }
}

/// The class that transformers takes for a model whose tokenizer names none.
std::string class_of_model(const fs::path& file) {
  if (!fs::exists(file)) return "";
  const Json json = core::read_json_file(file.string());
  const Part config(json, file.string(), "the file");
  if (const auto named = config.optional_text("tokenizer_class")) return *named;
  const std::string type = config.optional_text("model_type").value_or("");
  for (const std::string_view llama : {"llama", "mistral", "mixtral", "phi3"})
    if (type == llama) return "LlamaTokenizer";
  if (type.starts_with("gemma")) return "GemmaTokenizer";
  return type.starts_with("qwen") ? "Qwen2Tokenizer" : "";
}

}  // namespace

TokenizerSettings read_tokenizer_settings(const std::string& folder) {
  const fs::path path(folder);
  TokenizerSettings settings;
  Specials specials;
  std::map<std::int32_t, AddedToken> added;
  bool has_decoder = false;
  if (const fs::path file = path / "tokenizer_config.json"; fs::exists(file)) {
    const Json json = core::read_json_file(file.string());
    const Part part(json, file.string(), "the file");
    if (part.find("add_bos_token") != nullptr) settings.add_bos = part.flag("add_bos_token", false);
    if (part.find("legacy") != nullptr) settings.legacy = part.flag("legacy", true);
    settings.tokenizer_class = part.optional_text("tokenizer_class").value_or("");
    read_specials(part, specials);
    if (const Json* entries = part.find("added_tokens_decoder")) {
      has_decoder = true;
      read_added_decoder(part.part("added_tokens_decoder"), *entries, added);
    }
  }
  if (!has_decoder) {
    if (const fs::path file = path / "special_tokens_map.json"; fs::exists(file)) {
      const Json json = core::read_json_file(file.string());
      read_specials(Part(json, file.string(), "the file"), specials);
    }
    if (const fs::path file = path / "added_tokens.json"; fs::exists(file)) {
      const Json json = core::read_json_file(file.string());
      read_added_file(Part(json, file.string(), "the file"), json, specials, added);
    }
  }
  if (const auto bos = specials.find("bos_token"); bos != specials.end()) settings.bos_token = bos->second.front().text;
  for (const auto& [key, tokens] : specials)
    if (key != kMoreSpecial) settings.special_names[key] = tokens.front().text;
  for (auto& [id, token] : added)
    if (!token.text.empty()) settings.added.push_back(std::move(token));
  for (auto& [key, tokens] : specials)
    for (AddedToken& token : tokens)
      if (!token.text.empty()) settings.special.push_back(std::move(token));
  if (settings.tokenizer_class.empty()) settings.tokenizer_class = class_of_model(path / "config.json");
  if (settings.tokenizer_class.ends_with("Fast") && settings.tokenizer_class != "PreTrainedTokenizerFast")
    settings.tokenizer_class.resize(settings.tokenizer_class.size() - 4);
  return settings;
}

bool builds_template(const TokenizerSettings& settings) {
  constexpr std::array kClasses{"LlamaTokenizer"sv, "CodeLlamaTokenizer"sv, "GemmaTokenizer"sv, "CohereTokenizer"sv,
                                "GPTNeoXTokenizer"sv};
  return settings.tokenizer_class.empty() ||
         std::find(kClasses.begin(), kClasses.end(), settings.tokenizer_class) != kClasses.end();
}

bool is_llama_tokenizer(const TokenizerSettings& settings) {
  return settings.tokenizer_class.empty() || settings.tokenizer_class == "LlamaTokenizer" ||
         settings.tokenizer_class == "CodeLlamaTokenizer";
}

}  // namespace voronoi::model
