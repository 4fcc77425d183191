#include <algorithm>
#include <filesystem>
#include <initializer_list>

#include "core/error.h"
#include "core/file.h"
#include "model/tokenizer_files.h"
#include "model/unicode.h"
#include "model/vocabulary_json.h"

namespace voronoi::model {
namespace {

using core::FormatError;
using core::Json;
using Names = std::initializer_list<std::string_view>;

constexpr std::size_t kMostBytes = std::size_t{1} << 30;
// Ids may leave gaps, but not so many that a file of a few bytes makes a table of gigabytes.
constexpr std::uint64_t kMostGaps = 1 << 16;

std::string listed(Names names) {
  std::string out;
  for (const std::string_view name : names) out += (out.empty() ? "" : ", ") + std::string(name);
  return out;
}

/// An object of the file with the path of keys that leads to it.
class Part {
 public:
  Part(const Json& json, std::string file, std::string where)
      : json_(json), file_(std::move(file)), where_(std::move(where)) {
    if (!json_.is_object()) fail("is not an object");
  }
  [[noreturn]] void fail(const std::string& message) const { throw FormatError(file_, where_ + " " + message); }
  [[noreturn]] void refuse(const std::string& what) const { fail(what + " is not supported"); }

  const Json* find(std::string_view key) const {
    const auto at = json_.find(key);
    return at == json_.end() || at->is_null() ? nullptr : &*at;
  }
  void only(Names keys) const {
    for (const auto& item : json_.items())
      if (std::find(keys.begin(), keys.end(), item.key()) == keys.end()) refuse("key \"" + item.key() + "\"");
  }
  bool flag(std::string_view key, bool otherwise) const {
    const Json* value = find(key);
    if (value == nullptr) return otherwise;
    if (!value->is_boolean()) fail(std::string(key) + " is not true or false");
    return value->get<bool>();
  }
  std::string text(std::string_view key) const {
    const Json* value = find(key);
    if (value == nullptr || !value->is_string()) fail(std::string(key) + " is not a string");
    return value->get<std::string>();
  }
  std::optional<std::string> optional_text(std::string_view key) const {
    return find(key) == nullptr ? std::nullopt : std::optional(text(key));
  }
  std::string type() const { return text("type"); }
  Part part(std::string_view key) const {
    const Json* value = find(key);
    if (value == nullptr) fail("has no \"" + std::string(key) + "\"");
    return {*value, file_, where_ + "." + std::string(key)};
  }
  /// The objects of a list.
  std::vector<Part> list(std::string_view key) const {
    const Json* value = find(key);
    if (value == nullptr || !value->is_array()) fail(std::string(key) + " is not a list");
    std::vector<Part> parts;
    for (std::size_t i = 0; i < value->size(); ++i)
      parts.emplace_back((*value)[i], file_, where_ + "." + std::string(key) + "[" + std::to_string(i) + "]");
    return parts;
  }
  const std::string& file() const { return file_; }
  [[noreturn]] void refuse_type(Names known) const {
    fail("of type " + type() + " is not supported (supported: " + listed(known) + ")");
  }

 private:
  const Json& json_;
  std::string file_, where_;
};

void read_normalizer(const Part& part, BpeSpec& spec) {
  using Kind = BpeSpec::Normalizer::Kind;
  const std::string type = part.type();
  if (type == "Sequence") {
    part.only({"type", "normalizers"});
    for (const Part& inner : part.list("normalizers")) read_normalizer(inner, spec);
  } else if (type == "NFC") {
    part.only({"type"});
    spec.normalizers.push_back({Kind::nfc, "", ""});
  } else if (type == "Prepend") {
    part.only({"type", "prepend"});
    spec.normalizers.push_back({Kind::prepend, "", part.text("prepend")});
  } else if (type == "Replace") {
    part.only({"type", "pattern", "content"});
    const Part pattern = part.part("pattern");
    pattern.only({"String"});
    spec.normalizers.push_back({Kind::replace, pattern.text("String"), part.text("content")});
    if (spec.normalizers.back().pattern.empty()) part.fail("replaces an empty string");
  } else {
    part.refuse_type({"Sequence", "NFC", "Prepend", "Replace"});
  }
}

BpeSpec::Step read_metaspace(const Part& part) {
  part.only({"type", "replacement", "str_rep", "add_prefix_space", "prepend_scheme", "split"});
  if (part.text("replacement") != "\xE2\x96\x81") part.refuse("replacement \"" + part.text("replacement") + "\"");
  BpeSpec::Step step{.kind = BpeSpec::Step::Kind::metaspace, .regex = nullptr};
  const std::string scheme =
      part.optional_text("prepend_scheme").value_or(part.flag("add_prefix_space", true) ? "always" : "never");
  if (scheme == "always")
    step.prepend = BpeSpec::Step::Prepend::always;
  else if (scheme == "first")
    step.prepend = BpeSpec::Step::Prepend::first;
  else if (scheme != "never")
    part.refuse("prepend_scheme \"" + scheme + "\"");
  step.split = part.flag("split", true);
  return step;
}

/// Whether the normalizer leaves no space in any text.
bool replaces_spaces(const BpeSpec& spec) {
  bool replaced = false;
  for (const BpeSpec::Normalizer& step : spec.normalizers) {
    const bool is_space = step.kind == BpeSpec::Normalizer::Kind::replace && step.pattern == " ";
    replaced = (replaced || is_space) && step.content.find(' ') == std::string::npos;
  }
  return replaced;
}

void read_pre_tokenizer(const Part& part, BpeSpec& spec, bool& byte_level) {
  using Kind = BpeSpec::Step::Kind;
  const std::string type = part.type();
  if (byte_level) part.refuse("type " + type + " after ByteLevel");
  if (type == "Sequence") {
    part.only({"type", "pretokenizers"});
    for (const Part& inner : part.list("pretokenizers")) read_pre_tokenizer(inner, spec, byte_level);
  } else if (type == "Split") {
    part.only({"type", "pattern", "behavior", "invert"});
    // Gemma's splits at spaces, of which its normalizer leaves none.
    if (part.part("pattern").find("String") != nullptr && part.part("pattern").text("String") == " " &&
        !part.flag("invert", false) && replaces_spaces(spec))
      return;
    if (part.text("behavior") != "Isolated") part.refuse("behavior \"" + part.text("behavior") + "\"");
    if (part.flag("invert", false)) part.refuse("invert");
    const Part pattern = part.part("pattern");
    pattern.only({"Regex"});
    spec.steps.push_back(regex_step(pattern.text("Regex"), part.file()));
  } else if (type == "Digits") {
    part.only({"type", "individual_digits"});
    spec.steps.push_back(regex_step(part.flag("individual_digits", false) ? R"(\p{N})" : R"(\p{N}+)", part.file()));
  } else if (type == "ByteLevel") {
    part.only({"type", "add_prefix_space", "trim_offsets", "use_regex"});  // trim_offsets does not touch ids
    if (part.flag("add_prefix_space", true)) spec.steps.push_back({.kind = Kind::prefix_space, .regex = nullptr});
    if (part.flag("use_regex", true)) spec.steps.push_back(regex_step(kGpt2Pattern, part.file()));
    byte_level = true;
  } else if (type == "Metaspace") {
    spec.steps.push_back(read_metaspace(part));
  } else {
    part.refuse_type({"Sequence", "Split", "Digits", "ByteLevel", "Metaspace"});
  }
}

/// The id of BOS when a template puts one before the text.
std::optional<std::int32_t> read_template(const Part& part) {
  part.only({"type", "single", "pair", "special_tokens"});  // pairs of texts are never encoded here
  std::optional<std::string> name;
  bool text_seen = false;
  for (const Part& piece : part.list("single")) {
    piece.only({"SpecialToken", "Sequence"});
    if (piece.find("Sequence") != nullptr) {
      if (text_seen) piece.fail("puts the text in twice");
      text_seen = true;
      continue;
    }
    const std::string token = piece.part("SpecialToken").text("id");
    if (text_seen) piece.refuse("a special token after the text (\"" + token + "\")");
    if (name) piece.refuse("a second special token before the text (\"" + token + "\")");
    name = token;
  }
  if (!name) return std::nullopt;
  const Part special = part.part("special_tokens").part(*name);
  const Json* ids = special.find("ids");
  if (ids == nullptr || !ids->is_array() || ids->size() != 1 || !(*ids)[0].is_number_unsigned() ||
      (*ids)[0].get<std::uint64_t>() > INT32_MAX)
    special.fail("ids is not a list of one id");
  return (*ids)[0].get<std::int32_t>();
}

std::optional<std::int32_t> read_post_processor(const Part& part) {
  const std::string type = part.type();
  if (type == "TemplateProcessing") return read_template(part);
  if (type == "ByteLevel") return std::nullopt;  // moves offsets only
  if (type != "Sequence") part.refuse_type({"Sequence", "TemplateProcessing", "ByteLevel"});
  part.only({"type", "processors"});
  std::optional<std::int32_t> bos;
  for (const Part& inner : part.list("processors")) {
    const auto found = read_post_processor(inner);
    if (found && bos) inner.refuse("a second special token before the text");
    if (found) bos = found;
  }
  return bos;
}

void read_decoder(const Part& part, BpeSpec& spec) {
  const std::string type = part.type();
  const bool bytes = spec.alphabet == BpeSpec::Alphabet::bytes;
  if (type == "Sequence") {
    part.only({"type", "decoders"});
    for (const Part& inner : part.list("decoders")) read_decoder(inner, spec);
  } else if (type == "Metaspace" && !bytes) {
    spec.strip_leading_space = read_metaspace(part).prepend != BpeSpec::Step::Prepend::never;
  } else if (type == "Strip" && !bytes) {
    part.only({"type", "content", "start", "stop"});
    const Json *start = part.find("start"), *stop = part.find("stop");
    if (part.text("content") != " " || start == nullptr || *start != 1 || (stop != nullptr && *stop != 0))
      part.refuse("stripping anything but one space in front");
    spec.strip_leading_space = true;
  } else if (type == "Replace" && !bytes) {
    part.only({"type", "pattern", "content"});
    if (part.part("pattern").text("String") != "\xE2\x96\x81" || part.text("content") != " ")
      part.refuse("replacing anything but U+2581 by a space");
  } else if (type != (bytes ? "ByteLevel" : "ByteFallback") && type != "Fuse") {
    if (bytes) part.refuse_type({"ByteLevel"});
    part.refuse_type({"Sequence", "Metaspace", "Strip", "Replace", "ByteFallback", "Fuse"});
  }
}

/// Ids by the names the file uses.
class Vocabulary {
 public:
  Vocabulary(const std::vector<std::pair<std::string, std::uint64_t>>& entries, std::size_t n_more, BpeSpec& spec)
      : spec_(spec) {
    limit_ = entries.size() + n_more + kMostGaps;
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

  void add(const std::string& name, std::uint64_t id) {
    const std::int32_t at = place(id, name);
    const auto [known, fresh] = ids_.try_emplace(name, at);
    if (known->second != at)
      throw FormatError(spec_.file, "the token \"" + name + "\" has the ids " + std::to_string(known->second) +
                                        " and " + std::to_string(id));
    BpeSpec::Token& token = spec_.tokens[static_cast<std::size_t>(id)];
    if (fresh && token.kind != BpeSpec::Kind::absent)
      throw FormatError(spec_.file,
                        "the added token \"" + name + "\" has the id " + std::to_string(id) + " of another token");
    if (fresh) token = {name, BpeSpec::Kind::literal};
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
  std::uint64_t limit_ = 0;
  std::unordered_map<std::string, std::int32_t> ids_;
};

/// BOS by tokenizer_config.json, or by what the tokenizer's own template says.
void set_bos(BpeSpec& spec, const TokenizerConfig& config, std::optional<std::int32_t> in_template,
             const Vocabulary& vocabulary) {
  std::optional<std::int32_t> configured;
  if (config.bos_token) configured = vocabulary.find(*config.bos_token);
  spec.bos = in_template ? in_template : configured;
  spec.automatic_bos = config.add_bos.value_or(in_template.has_value());
  if (spec.automatic_bos && !spec.bos)
    throw FormatError(spec.file,
                      "tokenizer_config.json asks for a BOS token (add_bos_token), but its bos_token " +
                          (config.bos_token ? "\"" + *config.bos_token + "\" is not in the vocabulary" : "is missing"));
}

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

TokenizerConfig read_tokenizer_config(const std::string& path) {
  TokenizerConfig config;
  if (!std::filesystem::exists(path)) return config;
  const Json json = core::read_json_file(path);
  const Part part(json, path, "the file");
  if (part.find("add_bos_token") != nullptr) config.add_bos = part.flag("add_bos_token", false);
  if (const Json* token = part.find("bos_token"))
    config.bos_token = token->is_object() ? part.part("bos_token").text("content") : part.text("bos_token");
  config.tokenizer_class = part.optional_text("tokenizer_class").value_or("");
  return config;
}

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

BpeSpec read_tokenizer_json(const std::string& path, const TokenizerConfig& config) {
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
  if (byte_level && spec.byte_fallback) root.part("model").refuse("byte_fallback together with ByteLevel");
  if (root.find("decoder") != nullptr) read_decoder(root.part("decoder"), spec);
  std::optional<std::int32_t> bos;
  if (root.find("post_processor") != nullptr) bos = read_post_processor(root.part("post_processor"));

  const std::vector<Part> added =
      root.find("added_tokens") != nullptr ? root.list("added_tokens") : std::vector<Part>{};
  Vocabulary vocabulary(json.vocabulary, added.size(), spec);
  if (json.vocabulary.empty()) throw FormatError(path, "the vocabulary is empty");
  vocabulary.set_merges(json.merges);
  for (const Part& token : added) {
    token.only({"id", "content", "single_word", "lstrip", "rstrip", "normalized", "special"});
    const Json* id = token.find("id");
    if (id == nullptr || !id->is_number_unsigned()) token.fail("id is not a whole number from 0");
    const std::string content = token.text("content");
    if (token.flag("single_word", false)) token.refuse("single_word");
    vocabulary.add(content, id->get<std::uint64_t>());
    spec.added.push_back({content, id->get<std::int32_t>(), token.flag("lstrip", false), token.flag("rstrip", false),
                          token.flag("normalized", !token.flag("special", false))});
  }
  if (const auto unknown = root.part("model").optional_text("unk_token")) {
    spec.unknown = vocabulary.find(*unknown);
    if (!spec.unknown) throw FormatError(path, "unk_token \"" + *unknown + "\" is not in the vocabulary");
  }
  set_bos(spec, config, bos, vocabulary);
  return spec;
}

BpeSpec read_vocab_and_merges(const std::string& vocab_path, const std::string& merges_path,
                              const TokenizerConfig& config) {
  BpeSpec spec;
  spec.file = vocab_path;
  if (!config.tokenizer_class.empty() && !config.tokenizer_class.starts_with("GPT2Tokenizer"))
    throw FormatError(
        vocab_path,
        "belongs to a " + config.tokenizer_class +
            "; vocab.json and merges.txt alone are read for GPT2Tokenizer only: add the model's tokenizer.json");
  const VocabularyJson json = parse_vocab_json(core::read_text_file(vocab_path, kMostBytes), vocab_path);
  if (json.vocabulary.empty()) throw FormatError(vocab_path, "is not an object of tokens and ids");
  Vocabulary vocabulary(json.vocabulary, 0, spec);
  const std::string text = core::read_text_file(merges_path, kMostBytes);
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
  set_bos(spec, config, std::nullopt, vocabulary);
  return spec;
}

}  // namespace voronoi::model
