#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <unordered_map>
#include <utility>

#include "core/error.h"
#include "core/file.h"
#include "core/log.h"
#include "core/stand_in.h"
#include "model/json_part.h"
#include "model/tokenizer_files.h"
#include "model/tokenizer_steps.h"
#include "model/unicode.h"
#include "model/vocabulary_json.h"

namespace voronoi::model {
namespace {

using core::FormatError;
using core::Json;

constexpr std::size_t kMostBytes = std::size_t{1} << 30;
// Ids may leave gaps, but not so many that a file of a few bytes makes a table of gigabytes.
constexpr std::uint64_t kMostGaps = 1 << 16;

/// Ids by the names the file uses.
class Vocabulary {
 public:
  Vocabulary(const std::vector<std::pair<std::string, std::uint64_t>>& entries, std::size_t n_more, BpeSpec& spec)
      : spec_(spec) {
    n_entries_ = entries.size();
    limit_ = n_entries_ + n_more + kMostGaps;
    ids_.reserve(entries.size() + n_more);
    for (const auto& [name, id] : entries) {
      if (!ids_.try_emplace(name, place(id, name)).second)
        throw FormatError(spec.file, "the token \"" + name + "\" stands twice in the vocabulary");
      BpeSpec::Token& token = spec_.tokens[static_cast<std::size_t>(id)];
      if (token.kind != BpeSpec::Kind::absent)
        throw FormatError(spec.file, "the id " + std::to_string(id) + " stands twice in the vocabulary");
      token = make(name);
    }
  }

  /// Adds a token that is matched in a text. Its id is what `tokenizers` gives it, whatever the file says: the
  /// vocabulary's, or the next behind all there are.
  std::int32_t add(const std::string& name, std::uint64_t stated) {
    const auto known = ids_.find(name);
    const std::uint64_t next = largest_added_ >= n_entries_ ? largest_added_ + 1 : n_entries_;
    std::uint64_t id = known != ids_.end() ? static_cast<std::uint64_t>(known->second) : next;
    // In a vocabulary with gaps the next one may be somebody's already.
    if (known == ids_.end() && is_taken(id) && !is_taken(stated)) id = stated;
    if (id != stated)
      core::warn_once(fmt::format("{}: the added token {} has the id {} there; it gets {}, as transformers counts them",
                                  spec_.file, core::quote_text(name), stated, id));
    largest_added_ = std::max(largest_added_, id);
    if (known != ids_.end()) return known->second;
    const std::int32_t at = place(id, name);
    BpeSpec::Token& token = spec_.tokens[static_cast<std::size_t>(id)];
    if (token.kind != BpeSpec::Kind::absent)
      throw FormatError(spec_.file,
                        "the added token \"" + name + "\" has the id " + std::to_string(id) + " of another token");
    ids_.emplace(name, at);
    token = {name, BpeSpec::Kind::literal};
    return at;
  }

  std::optional<std::int32_t> find(const std::string& name) const {
    const auto at = ids_.find(name);
    return at == ids_.end() ? std::nullopt : std::optional(at->second);
  }

  void set_merges(const std::vector<std::pair<std::string, std::string>>& merges) {
    spec_.merges.reserve(merges.size());
    for (std::size_t i = 0; i < merges.size(); ++i) {
      const auto& [left, right] = merges[i];
      const auto id = [&](const std::string& name) {
        const auto found = find(name);
        if (!found)
          throw FormatError(spec_.file,
                            "merge " + std::to_string(i) + " names \"" + name + "\", which is not in the vocabulary");
        return *found;
      };
      spec_.merges.push_back({id(left), id(right), static_cast<std::uint32_t>(i), id(left + right)});
    }
  }

 private:
  bool is_taken(std::uint64_t id) const {
    return id < spec_.tokens.size() && spec_.tokens[static_cast<std::size_t>(id)].kind != BpeSpec::Kind::absent;
  }
  std::int32_t place(std::uint64_t id, const std::string& name) {
    if (id >= limit_)
      throw FormatError(spec_.file, "the token \"" + name + "\" has the id " + std::to_string(id) +
                                        ", far beyond the number of tokens");
    if (id >= spec_.tokens.size()) spec_.tokens.resize(static_cast<std::size_t>(id) + 1);
    return static_cast<std::int32_t>(id);
  }
  BpeSpec::Token make(const std::string& name) const {
    if (spec_.alphabet == BpeSpec::Alphabet::bytes) {
      if (auto bytes = from_byte_alphabet(name)) return {std::move(*bytes), BpeSpec::Kind::piece};
      return {name, BpeSpec::Kind::literal};
    }
    return {name, spec_.byte_fallback && byte_of_name(name) ? BpeSpec::Kind::byte : BpeSpec::Kind::piece};
  }
  BpeSpec& spec_;
  std::uint64_t limit_ = 0, n_entries_ = 0, largest_added_ = 0;
  std::unordered_map<std::string, std::int32_t> ids_;
};

/// BOS as the template has it or, with `by_setting`, as "add_bos_token" says where that is there.
void set_bos(BpeSpec& spec, const TokenizerSettings& settings, bool by_setting, std::optional<std::int32_t> in_template,
             const Vocabulary& vocabulary) {
  std::optional<std::int32_t> configured;
  if (settings.bos_token) configured = vocabulary.find(*settings.bos_token);
  spec.bos = in_template ? in_template : configured;
  const bool templated = in_template.has_value();
  spec.automatic_bos = by_setting ? settings.add_bos.value_or(templated) : templated;
  if (spec.automatic_bos && !spec.bos)
    throw FormatError(spec.file, "tokenizer_config.json asks for a BOS token (add_bos_token), but its bos_token " +
                                     (settings.bos_token ? "\"" + *settings.bos_token + "\" is not in the vocabulary"
                                                         : "is missing"));
}

/// Whether every byte has a token, so that no text has a character without one.
bool covers_bytes(const BpeSpec& spec) {
  std::array<bool, 256> there{};
  for (const BpeSpec::Token& token : spec.tokens)
    if (token.kind == BpeSpec::Kind::piece && token.text.size() == 1)
      there[static_cast<unsigned char>(token.text[0])] = true;
  return spec.alphabet == BpeSpec::Alphabet::bytes && std::find(there.begin(), there.end(), false) == there.end();
}

/// The tokens that are matched in a text, by their names.
class AddedTokens {
 public:
  explicit AddedTokens(BpeSpec& spec) : spec_(spec) {}

  /// One that stands twice has the flags of the last.
  void add(AddedToken token) {
    const auto [known, fresh] = place_.try_emplace(token.text, spec_.added.size());
    if (fresh)
      spec_.added.push_back(std::move(token));
    else
      spec_.added[known->second] = std::move(token);
  }
  /// Those of the files beside the tokenizer's own.
  void add_side_tokens(const TokenizerSettings& settings, Vocabulary& vocabulary) {
    for (AddedToken token : settings.added) {
      token.id = vocabulary.add(token.text, static_cast<std::uint64_t>(token.id));
      add(std::move(token));
    }
    for (AddedToken token : settings.special) {
      const auto id = vocabulary.find(token.text);
      if (!id || place_.contains(token.text)) continue;
      token.id = *id;
      add(std::move(token));
    }
  }

 private:
  BpeSpec& spec_;
  std::unordered_map<std::string, std::size_t> place_;
};

void read_model(const Part& model, BpeSpec& spec) {
  const std::string type =
      model.optional_text("type").value_or("BPE");  // absent in files of the first years, which hold BPE
  if (type != "BPE")
    model.fail("of type " + type +
               " is not supported (supported: BPE); if the model also comes with a sentencepiece tokenizer.model, "
               "move tokenizer.json away");
  model.only({"type", "dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix", "fuse_unk",
              "byte_fallback", "ignore_merges"});
  if (const Json* dropout = model.find("dropout"); dropout != nullptr && *dropout != 0) model.refuse("dropout");
  for (const std::string_view key : {"continuing_subword_prefix", "end_of_word_suffix"})
    if (!model.optional_text(key).value_or("").empty()) model.refuse(std::string(key));
  spec.fuse_unknown = model.flag("fuse_unk", false);
  spec.byte_fallback = model.flag("byte_fallback", false);
  spec.ignore_merges = model.flag("ignore_merges", false);
}

}  // namespace

BpeSpec::Step regex_step(std::string_view pattern, const std::string& file) {
  return {.kind = BpeSpec::Step::Kind::regex, .regex = std::make_shared<const Regex>(pattern, file)};
}

std::optional<std::string> from_byte_alphabet(std::string_view token) {
  // GPT-2 writes printable bytes of Latin-1 as themselves and the other 68, in order, as U+0100 onwards.
  static const std::vector<int> byte_of = [] {
    std::vector<int> table(256 + 68, -1);
    std::size_t next = 256;
    for (int byte = 0; byte < 256; ++byte) {
      const bool printable = (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte != 0xAD);
      table[printable ? static_cast<std::size_t>(byte) : next++] = byte;
    }
    return table;
  }();
  std::string out;
  for (std::size_t at = 0; at < token.size();) {
    const std::size_t length = utf8_length(token, at);
    const char32_t code_point = length == 0 ? char32_t{0xFFFFFFFF} : utf8_code_point(token, at, length);
    if (code_point >= byte_of.size() || byte_of[code_point] < 0) return std::nullopt;
    out += static_cast<char>(byte_of[code_point]);
    at += length;
  }
  return out;
}

std::pair<std::string_view, std::string_view> split_merge(std::string_view merge, const std::string& file,
                                                          const std::string& where) {
  const std::size_t space = merge.find(' ', 1);
  if (space == std::string_view::npos || space + 1 == merge.size() ||
      merge.find(' ', space + 1) != std::string_view::npos)
    throw FormatError(file, where + " is not \"left right\"");
  return {merge.substr(0, space), merge.substr(space + 1)};
}

BpeSpec read_tokenizer_json(const std::string& path, const TokenizerSettings& settings) {
  VocabularyJson json = parse_tokenizer_json(core::read_text_file(path, kMostBytes), path);
  const Part root(json.rest, path, "the file");
  if (root.find("model") == nullptr) root.fail("has no \"model\": it is not a tokenizer.json");
  // truncation and padding are left to the caller by every user of these files.
  root.only({"version", "truncation", "padding", "added_tokens", "normalizer", "pre_tokenizer", "post_processor",
             "decoder", "model"});
  BpeSpec spec;
  spec.file = path;
  read_model(root.part("model"), spec);
  if (root.find("normalizer") != nullptr) read_normalizer(root.part("normalizer"), spec);
  bool byte_level = false;
  if (root.find("pre_tokenizer") != nullptr) read_pre_tokenizer(root.part("pre_tokenizer"), spec, byte_level);
  spec.alphabet = byte_level ? BpeSpec::Alphabet::bytes : BpeSpec::Alphabet::characters;
  if (root.find("decoder") != nullptr) read_decoder(root.part("decoder"), spec);
  std::optional<std::int32_t> bos;
  if (root.find("post_processor") != nullptr) bos = read_post_processor(root.part("post_processor"));

  const std::vector<Part> added =
      root.find("added_tokens") != nullptr ? root.list("added_tokens") : std::vector<Part>{};
  Vocabulary vocabulary(json.vocabulary, added.size() + settings.added.size(), spec);
  if (json.vocabulary.empty()) throw FormatError(path, "the vocabulary is empty");
  const bool covered = covers_bytes(spec);
  // Without a token for any "<0xAB>" there is nothing to fall back to, and the unknown token stands in as ever.
  const bool has_fallback = std::any_of(json.vocabulary.begin(), json.vocabulary.end(),
                                        [](const auto& entry) { return byte_of_name(entry.first).has_value(); });
  if (byte_level && spec.byte_fallback && has_fallback && !covered)
    root.part("model").refuse("byte_fallback together with ByteLevel, where some byte has no token,");
  vocabulary.set_merges(json.merges);
  AddedTokens tokens(spec);
  for (const Part& token : added) {
    token.only({"id", "content", "single_word", "lstrip", "rstrip", "normalized", "special"});
    const Json* id = token.find("id");
    if (id == nullptr || !id->is_number_unsigned()) token.fail("id is not a whole number from 0");
    AddedToken read{.text = token.text("content"),
                    .lstrip = token.flag("lstrip", false),
                    .rstrip = token.flag("rstrip", false),
                    .normalized = token.flag("normalized", !token.flag("special", false)),
                    .single_word = token.flag("single_word", false),
                    .special = token.flag("special", false)};
    read.id = vocabulary.add(read.text, id->get<std::uint64_t>());
    tokens.add(std::move(read));
  }
  tokens.add_side_tokens(settings, vocabulary);
  if (const auto unknown = root.part("model").optional_text("unk_token")) {
    spec.unknown = vocabulary.find(*unknown);
    // Where every byte has a token it is never asked for.
    if (!spec.unknown && !covered) throw FormatError(path, "unk_token \"" + *unknown + "\" is not in the vocabulary");
  }
  set_bos(spec, settings, builds_template(settings), bos, vocabulary);
  return spec;
}

BpeSpec read_vocab_and_merges(const std::string& vocab_path, const std::string& merges_path,
                              const TokenizerSettings& settings) {
  BpeSpec spec;
  spec.file = vocab_path;
  if (!settings.tokenizer_class.empty() && settings.tokenizer_class != "GPT2Tokenizer")
    throw FormatError(
        vocab_path,
        "belongs to a " + settings.tokenizer_class +
            "; vocab.json and merges.txt alone are read for GPT2Tokenizer only: add the model's tokenizer.json");
  const VocabularyJson json = parse_vocab_json(core::read_text_file(vocab_path, kMostBytes), vocab_path);
  if (json.vocabulary.empty()) throw FormatError(vocab_path, "is not an object of tokens and ids");
  Vocabulary vocabulary(json.vocabulary, settings.added.size(), spec);
  const std::string text = core::read_text_file(merges_path, kMostBytes);
  core::refuse_stand_in(text, merges_path);
  std::vector<std::pair<std::string, std::string>> merges;
  std::size_t line_number = 0;
  for (std::string_view rest = text; !rest.empty();) {
    const std::size_t end = std::min(rest.find('\n'), rest.size());
    std::string_view line = rest.substr(0, end);
    rest.remove_prefix(std::min(end + 1, rest.size()));
    if (line.ends_with('\r')) line.remove_suffix(1);
    ++line_number;
    if (line.empty() || (line_number == 1 && line.starts_with("#version"))) continue;
    const auto [left, right] = split_merge(line, merges_path, "line " + std::to_string(line_number));
    merges.emplace_back(left, right);
  }
  vocabulary.set_merges(merges);
  spec.steps.push_back(regex_step(kGpt2Pattern, vocab_path));
  TokenizerSettings known = settings;
  known.special.push_back({.text = "<|endoftext|>", .special = true});  // bos, eos and unk unless other names are given
  AddedTokens(spec).add_side_tokens(known, vocabulary);
  set_bos(spec, settings, true, std::nullopt, vocabulary);
  return spec;
}

}  // namespace voronoi::model
