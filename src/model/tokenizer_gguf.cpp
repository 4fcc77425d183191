#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <functional>

#include "core/error.h"
#include "core/log.h"
#include "model/gguf.h"
#include "model/tokenizer_files.h"
#include "model/unicode.h"

namespace voronoi::model {
namespace {

using core::FormatError;

// tokenizer.ggml.token_type
enum TokenType : std::int64_t { kNormal = 1, kUnknown = 2, kControl = 3, kUserDefined = 4, kUnused = 5, kByte = 6 };

/// A value of tokenizer.ggml.pre: the patterns that split a text one after the other, and what llama.cpp takes as given
/// for it.
struct PreTokenizer {
  std::vector<std::string_view> names, patterns;
  bool ignore_merges = false, add_bos = false;
};

// llama.cpp, src/llama-vocab.cpp; the patterns of llama-bpe, qwen2 and tekken are those of the models' own
// tokenizer.json.
const std::vector<PreTokenizer>& pre_tokenizers() {
  static const std::vector<PreTokenizer> table = {
      {{"gpt-2", "gpt2", "phi-2", "mpt", "olmo", "jais", "jina-es", "jina-de", "jina-v2-es", "jina-v2-de", "a.x-4.0",
        "mellum"},
       {kGpt2Pattern}},
      {{"smollm", "starcoder", "refact", "command-r", "codeshell"}, {R"(\p{N})", kGpt2Pattern}},
      {{"llama3", "llama-v3", "llama-bpe", "falcon3"},
       {R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)"},
       true,
       true},
      {{"qwen2", "deepseek-r1-qwen", "stablelm2"},
       {R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)"}},
      {{"tekken"},
       {R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)"},
       true,
       true},
      {{"default"}, {R"([\p{P}\$\+<=>\^~\|]+)", kGpt2Pattern, R"(\p{N}+)", "[0-9][0-9][0-9]"}},
  };
  return table;
}

const PreTokenizer& pre_tokenizer(const std::string& name, const std::string& file) {
  std::string known;
  for (const PreTokenizer& one : pre_tokenizers())
    for (const std::string_view candidate : one.names) {
      if (candidate == name) return one;
      known += (known.empty() ? "" : ", ") + std::string(candidate);
    }
  throw FormatError(file, "tokenizer.ggml.pre \"" + name + "\" is not supported (supported: " + known +
                              "); use the model's Hugging Face directory with its tokenizer.json");
}

/// Fills tokens and added ones. `piece`: the token of a normal entry; match_control: control tokens are matched in a
/// text as user-defined ones are.
void read_tokens(const GgufFile& gguf, BpeSpec& spec, bool match_control,
                 const std::function<BpeSpec::Token(const std::string&)>& piece) {
  const auto& texts = gguf.at("tokenizer.ggml.tokens").as_strings();
  if (texts.empty()) throw FormatError(spec.file, "tokenizer.ggml.tokens is empty");
  if (texts.size() > INT32_MAX) throw FormatError(spec.file, "tokenizer.ggml.tokens is too long");
  const GgufValue* types = gguf.find("tokenizer.ggml.token_type");
  if (types != nullptr && types->as_ints().size() != texts.size())
    throw FormatError(spec.file, "tokenizer.ggml.token_type has " + std::to_string(types->as_ints().size()) +
                                     " entries for " + std::to_string(texts.size()) + " tokens");
  spec.tokens.reserve(texts.size());
  for (std::size_t i = 0; i < texts.size(); ++i) {
    const std::int64_t type = types == nullptr ? std::int64_t{kNormal} : types->as_ints()[i];
    if (!is_valid_utf8(texts[i]))
      throw FormatError(spec.file, "tokenizer.ggml.tokens[" + std::to_string(i) + "] is not valid UTF-8");
    if (type == kNormal) {
      spec.tokens.push_back(piece(texts[i]));
    } else if (type == kByte && spec.byte_fallback) {
      if (!byte_of_name(texts[i]))
        throw FormatError(spec.file,
                          "tokenizer.ggml.tokens[" + std::to_string(i) + "] is of the type byte, but not \"<0xAB>\"");
      spec.tokens.push_back({texts[i], BpeSpec::Kind::byte});
    } else if (type >= 0 && type <= kByte) {
      spec.tokens.push_back({texts[i], BpeSpec::Kind::literal});
      if (type == kUserDefined || (type == kControl && match_control))
        spec.added.push_back({texts[i], static_cast<std::int32_t>(i), false, false, false});
    } else {
      throw FormatError(spec.file, "tokenizer.ggml.token_type[" + std::to_string(i) + "] is " + std::to_string(type));
    }
  }
}

bool flag(const GgufFile& gguf, std::string_view key, bool otherwise) {
  const GgufValue* value = gguf.find(key);
  return value == nullptr ? otherwise : value->as_bool();
}

std::optional<std::int32_t> id(const GgufFile& gguf, const BpeSpec& spec, std::string_view key) {
  const GgufValue* value = gguf.find(key);
  if (value == nullptr) return std::nullopt;
  const std::uint64_t number = value->as_u64();
  if (number >= spec.tokens.size())
    throw FormatError(spec.file, std::string(key) + " is " + std::to_string(number) + ", but there are " +
                                     std::to_string(spec.tokens.size()) + " tokens");
  return static_cast<std::int32_t>(number);
}

void read_byte_level(const GgufFile& gguf, BpeSpec& spec) {
  spec.alphabet = BpeSpec::Alphabet::bytes;
  const GgufValue* name = gguf.find("tokenizer.ggml.pre");
  const PreTokenizer& pre = pre_tokenizer(name == nullptr ? "default" : name->as_string(), spec.file);
  if (name == nullptr || name->as_string() == "default")
    core::warn_once(fmt::format(
        "{}: {}, so that texts are split as llama.cpp does by default, which is hardly how the model was trained; make "
        "the file anew with a converter of after April 2024, or give --tokenizer the model's tokenizer.json",
        spec.file, name == nullptr ? "has no tokenizer.ggml.pre" : "its tokenizer.ggml.pre is \"default\""));
  for (const std::string_view pattern : pre.patterns) spec.steps.push_back(regex_step(pattern, spec.file));
  spec.ignore_merges = pre.ignore_merges;
  // Both were added tokens of a tokenizer.json, which match in a text.
  read_tokens(gguf, spec, true, [](const std::string& text) {
    auto bytes = from_byte_alphabet(text);
    return bytes ? BpeSpec::Token{std::move(*bytes), BpeSpec::Kind::piece}
                 : BpeSpec::Token{text, BpeSpec::Kind::literal};
  });
  std::unordered_map<std::string_view, std::int32_t> ids;
  const auto& texts = gguf.at("tokenizer.ggml.tokens").as_strings();
  for (std::size_t i = 0; i < texts.size(); ++i)
    if (const auto [at, fresh] = ids.try_emplace(texts[i], static_cast<std::int32_t>(i)); !fresh)
      throw FormatError(spec.file, "tokenizer.ggml.tokens[" + std::to_string(i) + "] is the same as [" +
                                       std::to_string(at->second) + "]");
  const auto& merges = gguf.at("tokenizer.ggml.merges").as_strings();
  for (std::size_t i = 0; i < merges.size(); ++i) {
    const std::string where = "tokenizer.ggml.merges[" + std::to_string(i) + "]";
    const auto [left, right] = split_merge(merges[i], spec.file, where);
    const auto find = [&](std::string_view text) {
      const auto at = ids.find(text);
      if (at == ids.end())
        throw FormatError(spec.file, where + " names \"" + std::string(text) + "\", which is not in the vocabulary");
      return at->second;
    };
    spec.merges.push_back(
        {find(left), find(right), static_cast<std::uint32_t>(i), find(std::string(left) + std::string(right))});
  }
  spec.automatic_bos = flag(gguf, "tokenizer.ggml.add_bos_token", pre.add_bos);
}

/// A sentencepiece BPE vocabulary has no merges: any two neighbours whose union is a piece join, best score first.
void derive_merges(const GgufFile& gguf, BpeSpec& spec) {
  const auto& scores = gguf.at("tokenizer.ggml.scores").as_floats();
  if (scores.size() != spec.tokens.size())
    throw FormatError(spec.file, "tokenizer.ggml.scores has " + std::to_string(scores.size()) + " entries for " +
                                     std::to_string(spec.tokens.size()) + " tokens");
  std::unordered_map<std::string_view, std::int32_t> ids;
  std::vector<float> order;
  for (std::size_t i = 0; i < spec.tokens.size(); ++i) {
    if (spec.tokens[i].kind != BpeSpec::Kind::piece) continue;
    if (!std::isfinite(scores[i]))
      throw FormatError(spec.file, "tokenizer.ggml.scores[" + std::to_string(i) + "] is not finite");
    ids.try_emplace(spec.tokens[i].text, static_cast<std::int32_t>(i));
    order.push_back(scores[i]);
  }
  std::sort(order.begin(), order.end(), std::greater<>());
  order.erase(std::unique(order.begin(), order.end()), order.end());
  for (std::size_t i = 0; i < spec.tokens.size(); ++i) {
    if (spec.tokens[i].kind != BpeSpec::Kind::piece) continue;
    const std::string_view text = spec.tokens[i].text;
    const auto rank = static_cast<std::uint32_t>(
        std::lower_bound(order.begin(), order.end(), scores[i], std::greater<>()) - order.begin());
    for (std::size_t cut = utf8_length(text, 0); cut < text.size(); cut += utf8_length(text, cut)) {
      const auto left = ids.find(text.substr(0, cut)), right = ids.find(text.substr(cut));
      if (left != ids.end() && right != ids.end())
        spec.merges.push_back({left->second, right->second, rank, static_cast<std::int32_t>(i)});
    }
  }
}

void read_sentencepiece(const GgufFile& gguf, BpeSpec& spec) {
  spec.alphabet = BpeSpec::Alphabet::characters;
  spec.byte_fallback = true;
  if (flag(gguf, "tokenizer.ggml.remove_extra_whitespaces", false))
    throw FormatError(spec.file, "tokenizer.ggml.remove_extra_whitespaces = true is not supported");
  // sentencepiece itself never makes control tokens from a text.
  read_tokens(gguf, spec, false, [](const std::string& text) { return BpeSpec::Token{text, BpeSpec::Kind::piece}; });
  derive_merges(gguf, spec);
  using Kind = BpeSpec::Normalizer::Kind;
  spec.strip_leading_space = flag(gguf, "tokenizer.ggml.add_space_prefix", true);
  if (spec.strip_leading_space) spec.normalizers.push_back({.kind = Kind::prepend, .content = " "});
  spec.normalizers.push_back({.kind = Kind::replace, .pattern = " ", .content = "\xE2\x96\x81"});
  spec.automatic_bos = flag(gguf, "tokenizer.ggml.add_bos_token", true);
}

}  // namespace

BpeSpec read_gguf_vocabulary(const std::string& path) {
  const GgufFile gguf(path);
  BpeSpec spec;
  spec.file = path;
  const std::string& model = gguf.at("tokenizer.ggml.model").as_string();
  if (model == "gpt2")
    read_byte_level(gguf, spec);
  else if (model == "llama")
    read_sentencepiece(gguf, spec);
  else
    throw FormatError(path, "tokenizer.ggml.model \"" + model + "\" is not supported (supported: gpt2, llama)");
  spec.bos = id(gguf, spec, "tokenizer.ggml.bos_token_id");
  spec.unknown = model == "llama" ? id(gguf, spec, "tokenizer.ggml.unknown_token_id") : std::nullopt;
  return spec;
}

}  // namespace voronoi::model
