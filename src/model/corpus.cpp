#include "model/corpus.h"

#include <algorithm>
#include <utility>

#include "core/error.h"
#include "core/file.h"
#include "core/hash.h"
#include "core/json.h"
#include "core/option.h"
#include "core/types.h"
#include "model/packed_text.h"
#include "model/unicode.h"

namespace voronoi::model {
namespace {

using core::FormatError;

constexpr std::size_t kMaxTextBytes = std::size_t{1} << 46;

/// Calls line(text without its line feed, whether it had one, number from 1).
template <class OnLine>
void for_each_line(std::string_view text, OnLine&& on_line) {
  for (std::int64_t number = 1; !text.empty(); ++number) {
    const std::size_t end = text.find('\n');
    const bool ended = end != std::string_view::npos;
    on_line(text.substr(0, end), ended, number);
    text.remove_prefix(ended ? end + 1 : text.size());
  }
}

bool is_blank(std::string_view text) {
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t length = utf8_length(text, at);
    if (length == 0 || !is_white_space(utf8_code_point(text, at, length))) return false;
    at += length;
  }
  return true;
}

std::string join_wikitext(std::string_view text) {
  std::string out;
  out.reserve(text.size() + text.size() / 64);
  for_each_line(text, [&](std::string_view line, bool ended, std::int64_t number) {
    if (number > 1) out += "\n\n";
    if (is_blank(line)) return;
    out += line;
    if (ended) out += '\n';
  });
  return out;
}

std::string join_jsonl(std::string_view text, const std::string& path) {
  std::string out;
  bool first = true;
  for_each_line(text, [&](std::string_view line, bool, std::int64_t number) {
    if (is_blank(line)) return;
    const std::string place = path + ": line " + std::to_string(number);
    const core::Json json = core::parse_json(line, place);
    const auto field = json.is_object() ? json.find("text") : json.end();
    if (field == json.end() || !field->is_string())
      throw FormatError(place, "has no \"text\" string; every line is one JSON object with a \"text\" field");
    if (!first) out += "\n\n";
    first = false;
    out += field->get_ref<const std::string&>();
  });
  return out;
}

std::string without_document_marks(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for_each_line(text, [&](std::string_view line, bool ended, std::int64_t) {
    std::string_view mark = line;
    if (mark.ends_with('\r')) mark.remove_suffix(1);
    if (mark == "</doc>" || (mark.starts_with("<doc ") && mark.ends_with('>'))) return;
    out += line;
    if (ended) out += '\n';
  });
  return out;
}

void refuse_parquet(std::string_view bytes, const std::string& path) {
  if (!bytes.starts_with("PAR1")) return;
  const std::string name = core::quote_for_shell(path);
  throw FormatError(path,
                    "is a Parquet file; make JSON lines of it: python3 -c 'import sys, pandas; "
                    "pandas.read_parquet(sys.argv[1]).to_json(sys.argv[2], orient=\"records\", lines=True)' " +
                        name + " " + name + ".jsonl");
}

}  // namespace

std::optional<Join> join_from_name(std::string_view name) {
  for (const Join join : {Join::raw, Join::wikitext, Join::jsonl})
    if (name == join_name(join)) return join;
  return std::nullopt;
}

std::string_view join_name(Join join) {
  switch (join) {
    case Join::raw:
      return "raw";
    case Join::wikitext:
      return "wikitext";
    case Join::jsonl:
      return "jsonl";
  }
  throw core::InternalError("join");
}

Join default_join(std::string_view path) {
  for (const std::string_view packed : {".gz", ".zst"})
    if (path.ends_with(packed)) path.remove_suffix(packed.size());
  return path.ends_with(".jsonl") || path.ends_with(".json.l") ? Join::jsonl : Join::raw;
}

std::optional<BosRule> bos_rule_from_name(std::string_view name) {
  if (name == "auto") return BosRule::automatic;
  if (name == "always") return BosRule::always;
  if (name == "never") return BosRule::never;
  return std::nullopt;
}

Text load_text(const std::string& path, Join join) {
  std::string bytes = core::read_text_file(path, kMaxTextBytes);
  Text text{.path = path, .sha256 = core::sha256(bytes), .join = join, .content = {}};
  refuse_parquet(bytes, path);
  if (packing_of(bytes) != TextPacking::none) {
    bytes = unpack(bytes, path);
    refuse_parquet(bytes, path);
  }
  const std::size_t n_bytes = bytes.size();
  switch (join) {
    case Join::raw:
      text.content = std::move(bytes);
      break;
    case Join::wikitext:
      text.content = join_wikitext(bytes);
      break;
    case Join::jsonl:
      text.content = join_jsonl(bytes, path);
      break;
  }
  if (is_blank(text.content))
    throw FormatError(
        path, "holds no text (" + std::to_string(n_bytes) + " bytes, read as " + std::string(join_name(join)) + ")");
  return text;
}

std::vector<std::int32_t> tokenize(const Tokenizer& tokenizer, const Text& text, BosRule rule) {
  std::optional<std::int32_t> bos;
  if (rule == BosRule::automatic) bos = tokenizer.automatic_bos();
  if (rule == BosRule::always) {
    bos = tokenizer.bos_id();
    if (!bos)
      throw core::ConfigError("a BOS token is asked for, but the tokenizer has none; use bos = automatic or never");
  }
  std::vector<std::int32_t> ids = tokenizer.encode(text.content);
  if (bos) ids.insert(ids.begin(), *bos);
  return ids;
}

Windows leading_windows(const std::vector<std::int32_t>& ids, std::int64_t context, std::int64_t max_windows,
                        const std::string& path) {
  VORONOI_REQUIRE(context > 0, "context of windows");
  VORONOI_REQUIRE(max_windows != 0, "number of windows");
  const auto n_tokens = static_cast<std::int64_t>(ids.size());
  std::int64_t count = n_tokens / context;
  if (count == 0)
    throw FormatError(path, "gives " + std::to_string(n_tokens) + " tokens, less than one window of " +
                                std::to_string(context) + "; use a longer text or a smaller context");
  if (max_windows > 0) count = std::min(count, max_windows);
  return {count, context, {ids.begin(), ids.begin() + count * context}};
}

Windows calibration_windows(const Tokenizer& tokenizer, const std::vector<Text>& texts, std::int64_t n_sequences,
                            std::int64_t context) {
  VORONOI_REQUIRE(!texts.empty(), "no calibration text");
  VORONOI_REQUIRE(n_sequences > 0 && context > 0, "number and context of calibration windows");
  const auto total = core::checked_multiply(n_sequences, context);
  VORONOI_REQUIRE(total.has_value(), "calibration tokens overflow");
  Windows windows{n_sequences, context, {}};
  const std::optional<std::int32_t> bos = tokenizer.automatic_bos();
  const auto n_texts = static_cast<std::int64_t>(texts.size());
  for (std::int64_t t = 0; t < n_texts; ++t) {
    const Text& text = texts[static_cast<std::size_t>(t)];
    const std::int64_t share = n_sequences / n_texts + (t < n_sequences % n_texts ? 1 : 0);
    if (share == 0) break;
    const std::vector<std::int32_t> ids = tokenizer.encode(without_document_marks(text.content));
    const auto n_tokens = static_cast<std::int64_t>(ids.size());
    // Starts 0 .. last, all different.
    const std::int64_t last = n_tokens - context;
    if (last < share - 1)
      throw FormatError(text.path, "gives " + std::to_string(n_tokens) + " tokens, too few for " +
                                       std::to_string(share) + " calibration windows of " + std::to_string(context) +
                                       " tokens; add text, or ask for fewer or shorter sequences");
    for (std::int64_t i = 0; i < share; ++i) {
      // floor(i * last / (share - 1)) without an overflow of the product
      const std::int64_t gaps = std::max<std::int64_t>(1, share - 1);
      const std::int64_t start = last / gaps * i + last % gaps * i / gaps;
      windows.ids.insert(windows.ids.end(), ids.begin() + start, ids.begin() + start + context);
      if (bos) windows.ids[windows.ids.size() - static_cast<std::size_t>(context)] = *bos;
    }
  }
  return windows;
}

Windows disjoint_windows(const Tokenizer& tokenizer, const std::vector<Text>& texts, std::int64_t n_tokens,
                         std::int64_t context) {
  VORONOI_REQUIRE(!texts.empty() && context > 0 && n_tokens >= 0, "texts, tokens and context of windows");
  std::vector<std::vector<std::int32_t>> ids;
  std::int64_t available = 0;
  for (const Text& text : texts) {
    ids.push_back(tokenizer.encode(without_document_marks(text.content)));
    const auto n = static_cast<std::int64_t>(ids.back().size());
    if (n < context)
      throw FormatError(text.path, "gives " + std::to_string(n) + " tokens, less than one window of " +
                                       std::to_string(context) + "; use a longer text or a smaller context");
    available += n / context;
  }
  const std::int64_t wanted = n_tokens == 0 ? available : n_tokens / context + (n_tokens % context > 0 ? 1 : 0);
  if (wanted > available)
    throw core::ConfigError("the texts give " + std::to_string(available) + " windows of " + std::to_string(context) +
                            " tokens that do not overlap, and " + std::to_string(wanted) +
                            " are asked for; add text, or ask for fewer tokens");
  // Texts with less than an even share give all they have, the others the rest.
  std::vector<std::int64_t> share(texts.size(), 0);
  for (std::int64_t left = wanted; left > 0;)
    for (std::size_t t = 0; t < texts.size() && left > 0; ++t)
      if (share[t] < static_cast<std::int64_t>(ids[t].size()) / context) {
        ++share[t];
        --left;
      }
  Windows windows{wanted, context, {}};
  const std::optional<std::int32_t> bos = tokenizer.automatic_bos();
  for (std::size_t t = 0; t < texts.size(); ++t) {
    const std::int64_t whole = static_cast<std::int64_t>(ids[t].size()) / context;
    for (std::int64_t i = 0; i < share[t]; ++i) {
      const std::int64_t start = i * whole / share[t] * context;
      windows.ids.insert(windows.ids.end(), ids[t].begin() + start, ids[t].begin() + start + context);
      if (bos) windows.ids[windows.ids.size() - static_cast<std::size_t>(context)] = *bos;
    }
  }
  return windows;
}

}  // namespace voronoi::model
