// Texts as token windows; calibration (model/calibration_windows.h) and validation share it.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "model/config.h"
#include "model/tokenizer.h"

namespace voronoi::model {

class ModelChat;

/// How a file becomes one string.
/// raw: as it is. wikitext: rows of the raw WikiText file joined by "\n\n" as papers do (a blank line is the row "",
/// any other line is the row with its "\n"). jsonl: the "text" (or else "content") fields of JSON lines, or of one JSON
/// array of objects, joined by "\n\n".
enum class Join { raw, wikitext, jsonl };

std::optional<Join> join_from_name(std::string_view name);
std::string_view join_name(Join join);

struct Text {
  std::string path;
  std::string sha256;  ///< of the file's bytes, packed as they are
  Join join = Join::raw;
  std::string content;
};

/// What the file is, its content tells (model/text_kind.h): gzip and Zstandard are unpacked, which the errors of its
/// lines go by, and without a `join` JSON documents are jsonl and all else is raw. A byte order mark is left out.
/// Throws StoreError / FormatError (empty text, what is no UTF-8 text with the command that converts it, a document
/// without a text: names file and line).
/// Conversations ("messages") among the documents become text by `chat`, one behind the other without "\n\n"; null:
/// they are refused.
Text load_text(const std::string& path, std::optional<Join> join = std::nullopt, ModelChat* chat = nullptr);

/// Throws FormatError for a pipe among the texts where several ranks would read it. One rank reads a pipe to its end,
/// once, and keeps what it gave.
void require_files(std::span<const std::string> texts, int n_ranks);

enum class BosRule { automatic, always, never };

/// Of "auto", "always", "never".
std::optional<BosRule> bos_rule_from_name(std::string_view name);

/// Ids of the whole text, tokenized once, with BOS in front by the rule (automatic: the tokenizer's own).
/// Throws ConfigError when `always` is asked of a tokenizer without a BOS id.
std::vector<std::int32_t> tokenize(const Tokenizer& tokenizer, const Text& text, BosRule rule);

/// Without the "<doc ...>" and "</doc>" lines that WikiExtractor writes.
std::string without_document_marks(std::string_view text);

/// Non-overlapping windows [count, context] from the start, as perplexity uses them; an incomplete last one is dropped.
struct Windows {
  std::int64_t count = 0, context = 0;
  std::vector<std::int32_t> ids;  ///< [count, context]
};
/// max_windows < 0: all. Throws FormatError when the text gives no whole window (naming its tokens and the context).
Windows leading_windows(const std::vector<std::int32_t>& ids, std::int64_t context, std::int64_t max_windows,
                        const std::string& path);

/// Warns, once, of windows that are longer than the positions that a model was made for. `path`: the model's.
void warn_beyond_positions(const ModelConfig& config, std::int64_t context, const std::string& path);

}  // namespace voronoi::model
