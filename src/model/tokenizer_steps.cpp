#include "model/tokenizer_steps.h"

#include <array>
#include <cstdint>
#include <utility>

#include "model/tokenizer_files.h"
#include "model/unicode.h"

namespace voronoi::model {

using core::Json;

namespace {

std::optional<UnicodeForm> form_of(std::string_view name) {
  if (name == "NFC") return UnicodeForm::nfc;
  if (name == "NFD") return UnicodeForm::nfd;
  if (name == "NFKC") return UnicodeForm::nfkc;
  if (name == "NFKD") return UnicodeForm::nfkd;
  return std::nullopt;
}

}  // namespace

void read_normalizer(const Part& part, BpeSpec& spec) {
  using Kind = BpeSpec::Normalizer::Kind;
  const std::string type = part.type();
  if (type == "Sequence") {
    part.only({"type", "normalizers"});
    for (const Part& inner : part.list("normalizers")) read_normalizer(inner, spec);
  } else if (const auto form = form_of(type)) {
    part.only({"type"});
    spec.normalizers.push_back({.kind = Kind::unicode, .form = *form});
  } else if (type == "Prepend") {
    part.only({"type", "prepend"});
    spec.normalizers.push_back({.kind = Kind::prepend, .content = part.text("prepend")});
  } else if (type == "Replace") {
    part.only({"type", "pattern", "content"});
    const Part pattern = part.part("pattern");
    pattern.only({"String", "Regex"});
    BpeSpec::Normalizer step{.kind = Kind::replace, .content = part.text("content")};
    if (const auto regex = pattern.optional_text("Regex"))
      step.regex = std::make_shared<const Regex>(*regex, part.file());
    else
      step.pattern = pattern.text("String");
    if (step.regex == nullptr && step.pattern.empty()) part.fail("replaces an empty string");
    spec.normalizers.push_back(std::move(step));
  } else {
    part.refuse_type({"Sequence", "NFC", "NFD", "NFKC", "NFKD", "Prepend", "Replace"});
  }
}

namespace {

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
    const bool is_space = step.kind == BpeSpec::Normalizer::Kind::replace && step.pattern == " " && !step.regex;
    replaced = (replaced || is_space) && step.content.find(' ') == std::string::npos;
  }
  return replaced;
}

SplitBehavior read_behavior(const Part& part) {
  constexpr std::array<std::pair<std::string_view, SplitBehavior>, 5> kNames{
      {{"Isolated", SplitBehavior::isolated},
       {"Removed", SplitBehavior::removed},
       {"Contiguous", SplitBehavior::contiguous},
       {"MergedWithPrevious", SplitBehavior::merged_with_previous},
       {"MergedWithNext", SplitBehavior::merged_with_next}}};
  const std::string name = part.optional_text("behavior").value_or("Isolated");
  for (const auto& [known, behavior] : kNames)
    if (known == name) return behavior;
  part.refuse("behavior \"" + name + "\"");
}

/// A pattern that matches the text itself.
std::string literal_pattern(std::string_view text) {
  std::string pattern;
  for (const char c : text) {
    if (std::string_view(R"(\.[]{}()*+?^$|/-)").find(c) != std::string_view::npos) pattern += '\\';
    pattern += c;
  }
  return pattern;
}

}  // namespace

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
    const Part pattern = part.part("pattern");
    pattern.only({"Regex", "String"});
    const auto regex = pattern.optional_text("Regex");
    BpeSpec::Step step = regex_step(regex ? *regex : literal_pattern(pattern.text("String")), part.file());
    step.behavior = read_behavior(part);
    step.invert = part.flag("invert", false);
    spec.steps.push_back(std::move(step));
  } else if (type == "Digits") {
    part.only({"type", "individual_digits"});
    spec.steps.push_back(regex_step(part.flag("individual_digits", false) ? R"(\p{N})" : R"(\p{N}+)", part.file()));
  } else if (type == "Punctuation") {
    part.only({"type", "behavior"});
    spec.steps.push_back(regex_step(R"([\p{P}$+<=>^`|~])", part.file()));
    spec.steps.back().behavior = read_behavior(part);
  } else if (type == "WhitespaceSplit") {
    part.only({"type"});
    spec.steps.push_back(regex_step(R"(\s)", part.file()));
    spec.steps.back().behavior = SplitBehavior::removed;
  } else if (type == "ByteLevel") {
    part.only({"type", "add_prefix_space", "trim_offsets", "use_regex"});  // trim_offsets does not touch ids
    if (part.flag("add_prefix_space", true)) spec.steps.push_back({.kind = Kind::prefix_space, .regex = nullptr});
    if (part.flag("use_regex", true)) spec.steps.push_back(regex_step(kGpt2Pattern, part.file()));
    byte_level = true;
  } else if (type == "Metaspace") {
    spec.steps.push_back(read_metaspace(part));
  } else {
    part.refuse_type({"Sequence", "Split", "Digits", "Punctuation", "WhitespaceSplit", "ByteLevel", "Metaspace"});
  }
}

namespace {

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
    if (text_seen) continue;  // nothing is ever added behind a text here
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

/// The token that stands before a text: "cls" is its name and id.
std::int32_t read_classifier_token(const Part& part) {
  part.only({"type", "sep", "cls", "trim_offsets", "add_prefix_space"});
  const Json* token = part.find("cls");
  if (token == nullptr || !token->is_array() || token->size() != 2 || !(*token)[1].is_number_unsigned() ||
      (*token)[1].get<std::uint64_t>() > INT32_MAX)
    part.fail("cls is not a list of a name and an id");
  return (*token)[1].get<std::int32_t>();
}

}  // namespace

std::optional<std::int32_t> read_post_processor(const Part& part) {
  const std::string type = part.type();
  if (type == "TemplateProcessing") return read_template(part);
  if (type == "ByteLevel") return std::nullopt;  // moves offsets only
  if (type == "RobertaProcessing" || type == "BertProcessing") return read_classifier_token(part);
  if (type != "Sequence")
    part.refuse_type({"Sequence", "TemplateProcessing", "RobertaProcessing", "BertProcessing", "ByteLevel"});
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
  // Written for characters and left in front of ByteLevel by converters; no byte is touched by them.
  if (bytes && (type == "ByteFallback" || type == "Replace")) return;
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

}  // namespace voronoi::model
