#include "model/tokenizer_writer.h"

#include <algorithm>
#include <set>
#include <unordered_set>
#include <vector>

#include "core/error.h"
#include "core/json.h"
#include "model/gguf.h"
#include "model/tokenizer_files.h"

namespace voronoi::model {
namespace {

using core::FormatError;
using core::Json;

constexpr std::int64_t kUnknownType = 2, kControlType = 3;  // tokenizer.ggml.token_type

Json normalizer_json(const BpeSpec& spec) {
  using Kind = BpeSpec::Normalizer::Kind;
  Json steps = Json::array();
  for (const BpeSpec::Normalizer& step : spec.normalizers) {
    if (step.kind == Kind::prepend)
      steps.push_back({{"type", "Prepend"}, {"prepend", step.content}});
    else if (step.kind == Kind::replace)
      steps.push_back({{"type", "Replace"}, {"pattern", {{"String", step.pattern}}}, {"content", step.content}});
    else
      steps.push_back({{"type", "NFC"}});
  }
  if (steps.empty()) return nullptr;
  return {{"type", "Sequence"}, {"normalizers", std::move(steps)}};
}

Json byte_level_json() {
  return {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}, {"use_regex", false}};
}

Json pre_tokenizer_json(const BpeSpec& spec) {
  if (spec.alphabet == BpeSpec::Alphabet::characters) return nullptr;
  Json steps = Json::array();
  for (const BpeSpec::Step& step : spec.steps)
    steps.push_back({{"type", "Split"},
                     {"pattern", {{"Regex", step.regex->pattern()}}},
                     {"behavior", "Isolated"},
                     {"invert", false}});
  steps.push_back(byte_level_json());
  return {{"type", "Sequence"}, {"pretokenizers", std::move(steps)}};
}

Json decoder_json(const BpeSpec& spec) {
  if (spec.alphabet == BpeSpec::Alphabet::bytes) return byte_level_json();
  Json steps = Json::array();
  steps.push_back({{"type", "Replace"}, {"pattern", {{"String", "\xE2\x96\x81"}}}, {"content", " "}});
  steps.push_back({{"type", "ByteFallback"}});
  steps.push_back({{"type", "Fuse"}});
  if (spec.strip_leading_space) steps.push_back({{"type", "Strip"}, {"content", " "}, {"start", 1}, {"stop", 0}});
  return {{"type", "Sequence"}, {"decoders", std::move(steps)}};
}

Json post_processor_json(const BpeSpec& spec, const std::vector<std::string>& texts) {
  if (!spec.automatic_bos) return nullptr;
  const std::string& bos = texts[static_cast<std::size_t>(*spec.bos)];
  const Json special{{"SpecialToken", {{"id", bos}, {"type_id", 0}}}};
  const auto sequence = [](const char* id, int type) { return Json{{"Sequence", {{"id", id}, {"type_id", type}}}}; };
  Json single = Json::array(), pair = Json::array(), ids = Json::array(), names = Json::array();
  single.push_back(special);
  single.push_back(sequence("A", 0));
  pair = single;
  pair.push_back(sequence("B", 1));
  ids.push_back(*spec.bos);
  names.push_back(bos);
  return {{"type", "TemplateProcessing"},
          {"single", std::move(single)},
          {"pair", std::move(pair)},
          {"special_tokens", {{bos, {{"id", bos}, {"ids", std::move(ids)}, {"tokens", std::move(names)}}}}}};
}

Json added_tokens_json(const BpeSpec& spec, const std::vector<std::string>& texts,
                       const std::vector<std::int64_t>& types) {
  std::set<std::int32_t> added;
  for (const AddedToken& token : spec.added) added.insert(token.id);
  for (std::size_t id = 0; id < types.size(); ++id)
    if (types[id] == kControlType || types[id] == kUnknownType) added.insert(static_cast<std::int32_t>(id));
  Json tokens = Json::array();
  for (const std::int32_t id : added) {
    const auto at = static_cast<std::size_t>(id);
    tokens.push_back({{"id", id},
                      {"content", texts[at]},
                      {"single_word", false},
                      {"lstrip", false},
                      {"rstrip", false},
                      {"normalized", false},
                      {"special", types[at] == kControlType || types[at] == kUnknownType}});
  }
  return tokens;
}

/// "left right" a merge, in the order of their ranks.
std::vector<std::string> merge_texts(const BpeSpec& spec, const std::vector<std::string>& texts) {
  std::vector<BpeSpec::Merge> merges = spec.merges;
  std::stable_sort(merges.begin(), merges.end(),
                   [](const BpeSpec::Merge& a, const BpeSpec::Merge& b) { return a.rank < b.rank; });
  std::vector<std::string> lines;
  lines.reserve(merges.size());
  for (const BpeSpec::Merge& merge : merges) {
    const std::string &left = texts[static_cast<std::size_t>(merge.left)],
                      &right = texts[static_cast<std::size_t>(merge.right)];
    if (left.find(' ') != std::string::npos || right.find(' ') != std::string::npos)
      throw FormatError(spec.file, "the tokens \"" + left + "\" and \"" + right +
                                       "\" merge and hold a space, which tokenizer.json cannot express");
    lines.push_back(left + " " + right);
  }
  return lines;
}

/// Written by hand: a JSON object looks through all its keys for each new one, too slow for 10^5 of them.
std::string model_text(const BpeSpec& spec, const std::vector<std::string>& texts) {
  Json head{{"type", "BPE"},
            {"dropout", nullptr},
            {"unk_token", spec.unknown ? Json(texts[static_cast<std::size_t>(*spec.unknown)]) : Json(nullptr)},
            {"continuing_subword_prefix", nullptr},
            {"end_of_word_suffix", nullptr},
            {"fuse_unk", spec.fuse_unknown},
            {"byte_fallback", spec.byte_fallback},
            {"ignore_merges", spec.ignore_merges}};
  std::string text = head.dump();
  text.pop_back();
  text += ",\"vocab\":{";
  std::unordered_set<std::string_view> seen;
  for (std::size_t id = 0; id < texts.size(); ++id) {
    if (!seen.insert(texts[id]).second)
      throw FormatError(spec.file, "the token " + core::quote_text(texts[id]) +
                                       " stands twice in the vocabulary, which tokenizer.json cannot express");
    text += (id == 0 ? "\n" : ",\n") + Json(texts[id]).dump() + ":" + std::to_string(id);
  }
  text += "},\"merges\":[";
  bool first = true;
  for (const std::string& line : merge_texts(spec, texts)) {
    text += (first ? "\n" : ",\n") + Json(line).dump();
    first = false;
  }
  return text + "]}";
}

std::string config_text(const GgufFile& gguf, const BpeSpec& spec, const std::vector<std::string>& texts) {
  Json config{{"tokenizer_class", "PreTrainedTokenizerFast"},
              {"add_bos_token", spec.automatic_bos},
              {"clean_up_tokenization_spaces", false}};
  for (const char* name : {"bos", "eos", "unknown", "padding"}) {
    const GgufValue* id = gguf.find("tokenizer.ggml." + std::string(name) + "_token_id");
    if (id == nullptr || id->as_u64() >= texts.size()) continue;
    const std::string key = std::string(name) == "unknown" ? "unk" : std::string(name) == "padding" ? "pad" : name;
    config[key + "_token"] = texts[static_cast<std::size_t>(id->as_u64())];
  }
  if (const GgufValue* chat = gguf.find("tokenizer.chat_template")) config["chat_template"] = chat->as_string();
  return config.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

}  // namespace

std::map<std::string, std::string> gguf_tokenizer_files(const std::string& path) {
  const BpeSpec spec = read_gguf_vocabulary(path);
  const GgufFile gguf(path);
  const std::vector<std::string>& texts = gguf.at("tokenizer.ggml.tokens").as_strings();
  std::vector<std::int64_t> types(texts.size(), 1);
  if (const GgufValue* stored = gguf.find("tokenizer.ggml.token_type")) types = stored->as_ints();
  const Json head{{"version", "1.0"},
                  {"truncation", nullptr},
                  {"padding", nullptr},
                  {"added_tokens", added_tokens_json(spec, texts, types)},
                  {"normalizer", normalizer_json(spec)},
                  {"pre_tokenizer", pre_tokenizer_json(spec)},
                  {"post_processor", post_processor_json(spec, texts)},
                  {"decoder", decoder_json(spec)}};
  std::string text = head.dump();
  text.pop_back();
  text += ",\n\"model\":" + model_text(spec, texts) + "}\n";
  return {{"tokenizer.json", std::move(text)}, {"tokenizer_config.json", config_text(gguf, spec, texts)}};
}

}  // namespace voronoi::model
