#include "model/sentencepiece_check.h"

#include <cmath>
#include <cstdint>
#include <cstring>
#include <optional>
#include <string_view>
#include <unordered_set>

#include "core/error.h"
#include "core/stand_in.h"
#include "model/unicode.h"

namespace voronoi::model {
namespace {

using core::FormatError;

// Field numbers of sentencepiece_model.proto.
enum ModelField : std::uint64_t { kPieces = 1, kTrainerSpec = 2, kNormalizerSpec = 3, kDenormalizerSpec = 5 };
enum PieceField : std::uint64_t { kText = 1, kScore = 2, kType = 3 };
// Of the trainer spec; types: 1 unigram, 2 BPE, 3 word, 4 character.
constexpr std::uint64_t kModelType = 3, kSpaceAsSuffix = 24, kBpe = 2;
enum NormalizerField : std::uint64_t { kCharacterMap = 2, kDummyPrefix = 3, kEscapeSpaces = 5 };
constexpr std::string_view kSpace = "\xE2\x96\x81";  // U+2581, as pieces write a space
constexpr std::uint64_t kSmallestType = 1, kLargestType = 6;

/// A message of Protocol Buffers' wire format, field by field.
class Message {
 public:
  Message(std::string_view bytes, std::size_t origin, const std::string& file)
      : bytes_(bytes), origin_(origin), file_(file) {}

  struct Field {
    std::uint64_t number = 0, kind = 0;  ///< kind 0: varint, 1: 8 bytes, 2: bytes, 5: 4 bytes
    std::uint64_t value = 0;
    std::string_view bytes;
    std::size_t origin = 0;  ///< of bytes, in the file
  };
  std::optional<Field> next() {
    if (at_ == bytes_.size()) return std::nullopt;
    const std::uint64_t key = varint();
    Field field{.number = key >> 3, .kind = key & 7, .value = 0, .bytes = {}, .origin = 0};
    if (field.number == 0) fail("field number 0");
    switch (field.kind) {
      case 0:
        field.value = varint();
        break;
      case 1:
        take(8, field);
        break;
      case 2:
        take(varint(), field);
        break;
      case 5:
        take(4, field);
        break;
      default:
        fail("wire type " + std::to_string(field.kind));
    }
    return field;
  }
  Message inside(const Field& field) const {
    if (field.kind != 2) fail("field " + std::to_string(field.number) + " is not a message");
    return {field.bytes, field.origin, file_};
  }
  [[noreturn]] void fail(const std::string& what) const {
    throw FormatError(file_, origin_ + at_,
                      "is not a sentencepiece model: " + what + "; get the model's tokenizer.model again");
  }

 private:
  std::uint64_t varint() {
    std::uint64_t value = 0;
    for (unsigned shift = 0; shift < 70; shift += 7) {
      if (at_ == bytes_.size()) fail("the data ends too early");
      const auto byte = static_cast<unsigned char>(bytes_[at_++]);
      if (shift < 64) value |= static_cast<std::uint64_t>(byte & 0x7FU) << shift;
      if (byte < 0x80) return value;
    }
    fail("a number is too long");
  }
  void take(std::uint64_t size, Field& field) {
    if (size > bytes_.size() - at_) fail("the data ends too early");
    field.origin = origin_ + at_;
    field.bytes = bytes_.substr(at_, static_cast<std::size_t>(size));
    at_ += static_cast<std::size_t>(size);
  }
  std::string_view bytes_;
  std::size_t origin_, at_ = 0;
  const std::string& file_;
};

/// A normalizer's map is a trie as a double array (darts-clone) and the texts it points to: 4 bytes size of the trie,
/// trie, texts ended by NUL. The library follows its offsets unchecked.
void check_character_map(std::string_view map, const Message& spec) {
  const auto word = [&](std::size_t at) {
    std::uint32_t value;
    std::memcpy(&value, map.data() + at, 4);
    return value;
  };
  if (map.empty()) return;
  if (map.size() < 4) spec.fail("the normalizer's map is too short");
  const std::size_t trie_bytes = word(0);
  if (trie_bytes > map.size() - 4 || trie_bytes < 4 || trie_bytes % 4 != 0)
    spec.fail("the normalizer's map has a trie of " + std::to_string(trie_bytes) + " bytes");
  const std::size_t n_units = trie_bytes / 4, n_texts = map.size() - 4 - trie_bytes;
  if (n_texts == 0 || map.back() != '\0') spec.fail("the texts of the normalizer's map do not end");
  for (std::size_t i = 0; i < n_units; ++i) {
    const std::uint32_t unit = word(4 + 4 * i);
    if ((unit >> 31) != 0) {
      if ((unit & 0x7FFFFFFFU) >= n_texts) spec.fail("the normalizer's map points outside of its texts");
      continue;
    }
    const std::size_t offset = static_cast<std::size_t>(unit >> 10) << ((unit & (1U << 9)) >> 6);
    if (((i ^ offset) | 0xFF) >= n_units) spec.fail("the normalizer's map points outside of its trie");
  }
}

/// Whether it takes texts as they are, but for runs of spaces and spaces at the ends, with a space before.
bool check_normalizer(Message spec) {
  bool plain = true, prefix = true, escapes = true;  // the defaults of the format
  while (const auto field = spec.next()) {
    if (field->number == kDummyPrefix) prefix = field->value != 0;
    if (field->number == kEscapeSpaces) escapes = field->value != 0;
    if (field->number != kCharacterMap) continue;
    if (field->kind != 2) spec.fail("the normalizer's map is not a string of bytes");
    check_character_map(field->bytes, spec);
    plain &= field->bytes.empty();
  }
  return plain && prefix && escapes;
}

/// Characters of a piece that have a space behind them. False when it has one that is not escaped.
bool add_joined(std::string_view piece, std::set<std::string, std::less<>>& joined) {
  std::string_view before;
  for (std::size_t at = 0; at < piece.size();) {
    const std::string_view character = piece.substr(at, utf8_length(piece, at));
    if (character == kSpace && !before.empty()) joined.emplace(before);
    before = character;
    at += character.size();
  }
  return piece.find(' ') == std::string_view::npos;
}

}  // namespace

SentencepieceCuts check_sentencepiece_model(std::span<const std::byte> bytes, const std::string& file) {
  const std::string_view text(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  if (text.empty()) throw FormatError(file, "is empty; get the model's tokenizer.model again");
  core::refuse_stand_in(text, file);
  // tiktoken's files are lines of base64 and a number.
  const std::string_view line = text.substr(0, std::min(text.find('\n'), std::size_t{256}));
  const std::size_t space = line.find(' ');
  if (text[0] != '\x0A' && space != std::string_view::npos && space > 0 &&
      line.find_first_not_of("0123456789", space + 1) == std::string_view::npos)
    throw FormatError(file, "is a tiktoken vocabulary, not a sentencepiece model; use the model's tokenizer.json");
  Message model(text, 0, file);
  std::unordered_set<std::string_view> pieces;
  bool trained = false, normalized = false, bpe = false, plain = true;
  SentencepieceCuts cuts;
  while (const auto field = model.next()) {
    if (field->number == kNormalizerSpec) normalized = true;
    if (field->number == kNormalizerSpec) plain &= check_normalizer(model.inside(*field));
    if (field->number == kDenormalizerSpec) check_normalizer(model.inside(*field));
    if (field->number == kTrainerSpec) {
      trained = true;
      Message spec = model.inside(*field);
      while (const auto inner = spec.next()) {
        if (inner->number == kSpaceAsSuffix) plain &= inner->value == 0;
        if (inner->number != kModelType) continue;
        if (inner->value < 1 || inner->value > 2)
          throw FormatError(file, "sentencepiece model type " + std::to_string(inner->value) +
                                      " is not supported (supported: unigram, BPE)");
        bpe = inner->value == kBpe;
      }
    }
    if (field->number != kPieces) continue;
    const std::string name = "piece " + std::to_string(pieces.size());
    Message piece = model.inside(*field);
    std::optional<std::string_view> piece_text;
    while (const auto inner = piece.next()) {
      if (inner->number == kText && inner->kind == 2) piece_text = inner->bytes;
      if (inner->number == kScore) {
        if (inner->kind != 5) piece.fail(name + " has a score that is no float");
        float score;
        std::memcpy(&score, inner->bytes.data(), 4);
        if (!std::isfinite(score)) piece.fail(name + " has a score that is not finite");
      }
      if (inner->number == kType && (inner->value < kSmallestType || inner->value > kLargestType))
        piece.fail(name + " is of type " + std::to_string(inner->value));
    }
    if (!piece_text || piece_text->empty() || !is_valid_utf8(*piece_text) ||
        piece_text->find('\0') != std::string_view::npos)
      piece.fail(name + " is empty or not text");
    if (!pieces.insert(*piece_text).second) piece.fail(name + " stands twice");
    plain &= add_joined(*piece_text, cuts.joined);
  }
  if (pieces.empty()) model.fail("it has no pieces");
  if (!trained || !normalized) model.fail("its trainer's or normalizer's part is missing");
  cuts.at_spaces = bpe && plain;
  cuts.joined.emplace(kSpace);  // at the end of a text it is taken away like a space
  return cuts;
}

}  // namespace voronoi::model
