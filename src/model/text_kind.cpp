#include "model/text_kind.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "core/error.h"
#include "core/json.h"
#include "core/log.h"
#include "core/option.h"
#include "core/stand_in.h"
#include "model/unicode.h"

namespace voronoi::model {
namespace {

using core::FormatError;
using core::Json;
using namespace std::string_view_literals;

constexpr std::string_view kBlanks = " \t\r\n", kMark = "\xEF\xBB\xBF";
constexpr std::array kFields{"text"sv, "content"sv};
constexpr std::string_view kMessages = "messages";
constexpr std::size_t kMostFaults = 10, kBytesAFault = 1000;

/// A format by its first bytes, and the command that makes text of it: {0} is the file, {1} what to call the text.
struct Container {
  std::string_view magic, name, makes, command;
};
constexpr std::string_view kJsonLines = "JSON lines", kPlainText = "a text";
constexpr std::array kContainers{
    Container{"PAR1"sv, "a Parquet file", kJsonLines,
              "python3 -c 'import sys, pandas; pandas.read_parquet(sys.argv[1]).to_json(sys.argv[2], "
              "orient=\"records\", lines=True)' {0} {0}.jsonl"},
    Container{"ARROW1"sv, "an Arrow file", kJsonLines,
              "python3 -c 'import sys, pandas; pandas.read_feather(sys.argv[1]).to_json(sys.argv[2], "
              "orient=\"records\", lines=True)' {0} {0}.jsonl"},
    Container{"\xFF\xFF\xFF\xFF"sv, "an Arrow stream, as a dataset's cache holds it", kJsonLines,
              "python3 -c 'import sys, datasets; datasets.Dataset.from_file(sys.argv[1]).to_json(sys.argv[2])' {0} "
              "{0}.jsonl"},
    Container{"\xFD\x37zXZ\0"sv, "packed by xz", kPlainText, "xz -dc {0} > {1}"},
    Container{"BZh"sv, "packed by bzip2", kPlainText, "bzip2 -dc {0} > {1}"},
    Container{"\x04\x22\x4D\x18"sv, "packed by lz4", kPlainText, "lz4 -dc {0} > {1}"},
    Container{"PK\x03\x04"sv, "a zip archive", kPlainText, "unzip -p {0} > {1}"},
    Container{"7z\xBC\xAF\x27\x1C"sv, "a 7z archive", kPlainText, "7z x -so {0} > {1}"},
    Container{"%PDF-"sv, "a PDF", kPlainText, "pdftotext {0} {1}"},
};
constexpr Container kTar{"ustar"sv, "a tar archive", kPlainText, "tar -xOf {0} > {1}"};
constexpr std::size_t kTarMagic = 257;  ///< where it stands

[[noreturn]] void refuse_container(const Container& container, const std::string& path) {
  throw FormatError(path, fmt::format("is {}; make {} of it: {}", container.name, container.makes,
                                      fmt::format(fmt::runtime(container.command), core::quote_for_shell(path),
                                                  core::quote_for_shell(path + ".txt"))));
}

/// bzip2's magic is a word; a digit and the digits of pi follow.
bool begins(std::string_view bytes, const Container& container) {
  if (!bytes.starts_with(container.magic)) return false;
  return container.magic != "BZh" || bytes.substr(4).starts_with("1AY&SY");
}

[[noreturn]] void refuse_encoding(const std::string& path, const std::string& found, std::string_view encoding) {
  throw FormatError(path, fmt::format("{}, not UTF-8; convert it: iconv -f {} -t UTF-8 {} > {}", found, encoding,
                                      core::quote_for_shell(path), core::quote_for_shell(path + ".utf8")));
}

/// UTF-16 or UTF-32 by its mark, or by the places of zeros in western text.
void refuse_wide(std::string_view text, const std::string& path) {
  const auto found = [&](const char* encoding) { refuse_encoding(path, fmt::format("is {}", encoding), encoding); };
  if (text.starts_with("\xFF\xFE\0\0"sv) || text.starts_with("\0\0\xFE\xFF"sv)) found("UTF-32");
  if (text.starts_with("\xFF\xFE") || text.starts_with("\xFE\xFF")) found("UTF-16");
  constexpr std::size_t kLooked = 4096;
  const std::string_view begin = text.substr(0, std::min(text.size(), kLooked) / 4 * 4);
  std::array<std::size_t, 4> zeros{};
  for (std::size_t i = 0; i < begin.size(); ++i) zeros[i % 4] += begin[i] == '\0' ? 1U : 0U;
  const std::size_t many = begin.size() / 4 * 3 / 4 + 1, few = begin.size() / 64;
  if (zeros[1] >= many && zeros[2] >= many && zeros[3] >= many) found("UTF-32LE");
  if (zeros[0] >= many && zeros[1] >= many && zeros[2] >= many) found("UTF-32BE");
  if (zeros[1] >= many && zeros[3] >= many && zeros[0] <= few && zeros[2] <= few) found("UTF-16LE");
  if (zeros[0] >= many && zeros[2] >= many && zeros[1] <= few && zeros[3] <= few) found("UTF-16BE");
}

/// The end of the object or array at text[at]; npos when there is none.
std::size_t value_end(std::string_view text, std::size_t at) {
  bool quoted = false;
  for (std::size_t depth = 0; at < text.size(); ++at) {
    const char c = text[at];
    if (quoted) {
      if (c == '\\') ++at;
      if (c == '"') quoted = false;
    } else if (c == '"') {
      quoted = true;
    } else if (c == '{' || c == '[') {
      ++depth;
    } else if (c == '}' || c == ']') {
      if (--depth == 0) return at + 1;
    }
  }
  return std::string_view::npos;
}

/// The text of a document; nullptr when it has none.
const std::string* text_field(const Json& document) {
  if (!document.is_object()) return nullptr;
  for (const std::string_view name : kFields)
    if (const auto field = document.find(name); field != document.end() && field->is_string())
      return &field->get_ref<const std::string&>();
  return nullptr;
}

std::string keys_of(const Json& document) {
  constexpr std::size_t kShown = 6;
  if (!document.is_object()) return "";
  std::string keys;
  std::size_t n = 0;
  for (const auto& item : document.items())
    if (n++ < kShown) keys += (keys.empty() ? "" : ", ") + item.key();
  return document.empty() ? "" : fmt::format(" (its keys: {}{})", keys, n > kShown ? ", ..." : "");
}

bool is_conversation(const Json& document) {
  if (!document.is_object()) return false;
  const auto messages = document.find(kMessages);
  return messages != document.end() && messages->is_array();
}

void take_document(std::string_view json, const std::string& place, const DocumentTaker& taker) {
  const Json parsed = core::parse_json(json, place);
  if (const std::string* text = text_field(parsed)) return taker.text(*text);
  if (!is_conversation(parsed))
    throw FormatError(place, "has no \"text\" or \"content\" string, nor \"messages\"" + keys_of(parsed) +
                                 "; every document is a JSON object with one of them");
  if (!taker.conversation)
    throw FormatError(place,
                      "is a conversation (\"messages\"), which only texts of calibration and evaluation may be; give "
                      "documents with a \"text\"");
  taker.conversation(parsed, place);
}

void for_each_element(std::string_view text, std::size_t at, const std::string& path, const DocumentTaker& taker) {
  for (std::int64_t number = 1;; ++number) {
    const std::string place = path + ": element " + std::to_string(number);
    at = text.find_first_not_of(kBlanks, at + 1);
    if (at == std::string_view::npos)
      throw FormatError(place, "is missing: the array does not end; get the whole file");
    if (number == 1 && text[at] == ']') break;
    const std::size_t end = text[at] == '{' ? value_end(text, at) : std::string_view::npos;
    if (end == std::string_view::npos)
      throw FormatError(place, text[at] == '{' ? "does not end; get the whole file" : "is no JSON object");
    take_document(text.substr(at, end - at), place, taker);
    at = text.find_first_not_of(kBlanks, end);
    if (at != std::string_view::npos && text[at] == ']') break;
    if (at == std::string_view::npos || text[at] != ',') throw FormatError(place, "has neither , nor ] behind it");
  }
  if (text.find_first_not_of(kBlanks, at + 1) != std::string_view::npos)
    throw FormatError(path, "goes on behind the end of its JSON array");
}

bool named_as_json(std::string_view path) {
  for (const std::string_view packed : {".gz", ".zst"})
    if (path.ends_with(packed)) path.remove_suffix(packed.size());
  return path.ends_with(".jsonl") || path.ends_with(".json.l") || path.ends_with(".ndjson") || path.ends_with(".json");
}

/// The first object of text that begins as JSON does, parsed; null when it is none.
Json first_object(std::string_view text, std::size_t at, const std::string& path, std::size_t& end) {
  end = value_end(text, at);
  if (end == std::string_view::npos) return nullptr;
  try {
    return core::parse_json(text.substr(at, end - at), path);
  } catch (const FormatError&) {
    return nullptr;
  }
}

}  // namespace

void refuse_containers(std::string_view bytes, const std::string& path) {
  core::refuse_pointer(bytes, path);
  for (const Container& container : kContainers)
    if (begins(bytes, container)) refuse_container(container, path);
  if (bytes.size() > kTarMagic && bytes.substr(kTarMagic).starts_with(kTar.magic)) refuse_container(kTar, path);
}

void require_utf8(std::string_view text, const std::string& path) {
  refuse_wide(text, path);
  std::size_t faults = 0, first = 0, zeros = 0;
  for (std::size_t at = 0; at < text.size();) {
    bool valid;
    const std::size_t length = core::scan_utf8(text, at, valid);
    if (text[at] == '\0') ++zeros;
    if (!valid && faults++ == 0) first = at;
    at += length;
  }
  const std::size_t allowed = std::max(kMostFaults, text.size() / kBytesAFault);
  if (zeros > allowed)
    throw FormatError(path, fmt::format("is no text: {} of its {} bytes are zero; give plain text, JSON lines, or "
                                        "either packed by gzip or Zstandard",
                                        zeros, text.size()));
  if (faults > allowed)
    refuse_encoding(
        path,
        fmt::format("holds {} places in {} bytes that are no characters, the first at byte {}: it is binary "
                    "or in another encoding (ISO-8859-1, say)",
                    faults, text.size(), first),
        "ISO-8859-1");
  if (faults > 0)
    core::warn_once(
        fmt::format("{}: {} place(s) are not UTF-8, the first at byte {}; each counts as U+FFFD", path, faults, first));
}

std::string_view without_mark(std::string_view bytes) {
  if (bytes.starts_with(kMark)) bytes.remove_prefix(kMark.size());
  return bytes;
}

bool holds_documents(std::string_view text, const std::string& path) {
  const bool named = named_as_json(path);
  const std::size_t begin = text.find_first_not_of(kBlanks);
  if (begin == std::string_view::npos) return named;
  const bool array = text[begin] == '[';
  const std::size_t at = array ? text.find_first_not_of(kBlanks, begin + 1) : begin;
  if (at == std::string_view::npos || text[at] != '{') return named;
  std::size_t end = 0;
  const Json object = first_object(text, at, path, end);
  if (!object.is_object()) return named;
  const bool has_field =
      is_conversation(object) ||
      std::any_of(kFields.begin(), kFields.end(), [&](std::string_view name) { return object.contains(name); });
  const std::string file = core::quote_for_shell(path);
  if (!has_field)
    throw FormatError(path, fmt::format("is JSON, but its first document has no \"text\" or \"content\" string, nor "
                                        "\"messages\"{}; rename "
                                        "the field that holds the text: jq -c '{}{{text: .FIELD}}' {} > {}.jsonl",
                                        keys_of(object), array ? ".[] | " : "", file, file));
  if (!array && text.substr(at, end - at).find('\n') != std::string_view::npos)
    throw FormatError(path, fmt::format("is JSON, but neither one object a line nor one array of them: jq -c . {} > "
                                        "{}.jsonl makes lines of it",
                                        file, file));
  return true;
}

void for_each_document(std::string_view text, const std::string& path, const DocumentTaker& taker) {
  if (const std::size_t begin = text.find_first_not_of(kBlanks); begin != std::string_view::npos && text[begin] == '[')
    return for_each_element(text, begin, path, taker);
  for (std::int64_t number = 1; !text.empty(); ++number) {
    const std::size_t end = std::min(text.find('\n'), text.size());
    const std::string_view line = text.substr(0, end);
    text.remove_prefix(std::min(end + 1, text.size()));
    if (line.find_first_not_of(kBlanks) == std::string_view::npos) continue;
    take_document(line, path + ": line " + std::to_string(number), taker);
  }
}

}  // namespace voronoi::model
