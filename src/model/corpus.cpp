#include "model/corpus.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <map>
#include <mutex>
#include <utility>

#include "core/error.h"
#include "core/file.h"
#include "core/hash.h"
#include "core/log.h"
#include "core/option.h"
#include "core/types.h"
#include "model/chat_template.h"
#include "model/packed_text.h"
#include "model/text_kind.h"
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

std::string join_documents(std::string_view text, const std::string& path, ModelChat* chat) {
  std::string out;
  bool parts = false;  // the next text is parted from what stands before it: a conversation has marks of its own
  DocumentTaker taker;
  taker.text = [&](const std::string& document) {
    if (parts) out += "\n\n";
    parts = true;
    out += document;
  };
  if (chat != nullptr)
    taker.conversation = [&](const core::Json& document, const std::string& place) {
      out += chat->render(document, place);
      parts = false;
    };
  for_each_document(text, path, taker);
  return out;
}

/// Line feeds alone end lines where texts are compared; what stands before them is a token of its own.
void warn_of_carriage_returns(std::string_view text, const std::string& path) {
  std::size_t n_lines = 0, n_returns = 0;
  for_each_line(text, [&](std::string_view line, bool ended, std::int64_t) {
    if (ended) ++n_lines;
    if (ended && line.ends_with('\r')) ++n_returns;
  });
  if (n_lines > 0 && n_returns > n_lines / 2)
    core::warn_once(path +
                    ": its lines end in CR LF, and the carriage returns are tokens; most programs read it without "
                    "them: dos2unix " +
                    core::quote_for_shell(path));
}

bool is_pipe(const std::string& path) {
  std::error_code ignored;
  return std::filesystem::is_fifo(path, ignored);
}

/// What a pipe gives it gives once, and a text is asked for more than once: before the work, and by it.
std::string read_once(const std::string& path) {
  static std::mutex mutex;
  static std::map<std::string, std::string> given;
  const std::lock_guard lock(mutex);
  const auto found = given.find(path);
  return found != given.end() ? found->second : given[path] = core::read_pipe(path, kMaxTextBytes);
}

}  // namespace

void require_files(std::span<const std::string> texts, int n_ranks) {
  for (const std::string& path : texts)
    if (n_ranks > 1 && is_pipe(path))
      throw FormatError(path, "is a pipe, of which each of " + std::to_string(n_ranks) +
                                  " ranks would get a part; write it to a file (what gzip or Zstandard packed is read "
                                  "as it is), or start one rank");
}

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

std::optional<BosRule> bos_rule_from_name(std::string_view name) {
  if (name == "auto") return BosRule::automatic;
  if (name == "always") return BosRule::always;
  if (name == "never") return BosRule::never;
  return std::nullopt;
}

Text load_text(const std::string& path, std::optional<Join> join, ModelChat* chat) {
  std::string bytes = is_pipe(path) ? read_once(path) : core::read_text_file(path, kMaxTextBytes);
  Text text{.path = path, .sha256 = core::sha256(bytes), .join = Join::raw, .content = {}};
  refuse_containers(bytes, path);
  if (packing_of(bytes) != TextPacking::none) {
    bytes = unpack(bytes, path);
    refuse_containers(bytes, path);
  }
  const std::string_view content = without_mark(bytes);
  require_utf8(content, path);
  text.join = join ? *join : holds_documents(content, path) ? Join::jsonl : Join::raw;
  const std::size_t n_bytes = bytes.size();
  if (text.join != Join::jsonl) warn_of_carriage_returns(content, path);
  switch (text.join) {
    case Join::raw:
      bytes.erase(0, n_bytes - content.size());
      text.content = std::move(bytes);
      break;
    case Join::wikitext:
      text.content = join_wikitext(content);
      break;
    case Join::jsonl:
      text.content = join_documents(content, path, chat);
      break;
  }
  if (is_blank(text.content))
    throw FormatError(path, "holds no text (" + std::to_string(n_bytes) + " bytes, read as " +
                                std::string(join_name(text.join)) + ")");
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

void warn_beyond_positions(const ModelConfig& config, std::int64_t context, const std::string& path) {
  if (context > config.max_position)
    core::warn_once(
        fmt::format("{}: is made for {} positions, and windows have {} tokens: what it says beyond is no "
                    "measure of it; use a context of at most {}",
                    path, config.max_position, context, config.max_position));
}

}  // namespace voronoi::model
