#include "model/sentencepiece_tokenizer.h"

#include <sentencepiece_processor.h>

#include <algorithm>
#include <map>
#include <span>
#include <utility>

#include "core/error.h"
#include "core/file.h"
#include "model/sentencepiece_check.h"
#include "model/unicode.h"

namespace voronoi::model {

using core::FormatError;

namespace {

constexpr std::string_view kEscapedSpace = "\xE2\x96\x81";
// Added ids may leave gaps, but a file of a few bytes must not make a vocabulary of billions.
constexpr std::int64_t kMostIdGaps = 1 << 16;

/// The place of a space from `at` on where the text may be cut; the text's size when there is none.
std::size_t find_cut(std::string_view text, std::size_t at, const SentencepieceCuts& cuts) {
  for (at = text.find(' ', at); at != std::string_view::npos; at = text.find(' ', at + 1)) {
    std::size_t before = at;
    while (before > 0 && (static_cast<unsigned char>(text[--before]) & 0xC0U) == 0x80U) {
    }
    const std::string_view character = text.substr(before, at - before);
    const bool single = character != " " && at + 1 < text.size() && text[at + 1] != ' ';
    if (single && !cuts.joined.contains(character)) return at;
  }
  return text.size();
}

}  // namespace

struct SentencepieceTokenizer::Impl {
  sentencepiece::SentencePieceProcessor processor;
  /// The same model without the space in front of texts; of Llama's with "legacy": false alone.
  std::unique_ptr<sentencepiece::SentencePieceProcessor> bare;
  std::string unknown;             ///< the unknown token's name, which `bare` takes for
  std::size_t unknown_length = 0;  ///< so many pieces
  SentencepieceCuts cuts;
  std::string path;
  AddedTokenMatcher matcher;
  std::map<std::int32_t, AddedToken> added;  ///< what the matcher finds, by id

  void load(sentencepiece::SentencePieceProcessor& target, const std::string& bytes) const {
    std::string problem;
    try {
      const auto status = target.LoadFromSerializedProto(bytes);
      if (!status.ok()) problem = status.ToString();
    } catch (const std::exception& error) {
      problem = error.what();
    }
    if (!problem.empty()) throw FormatError(path, "is refused by sentencepiece: " + problem);
  }

  void add_tokens(const TokenizerSettings& settings) {
    const std::int32_t n_pieces = processor.GetPieceSize();
    std::map<std::string, AddedToken> by_text;
    for (AddedToken token : settings.special)
      if (token.id = processor.PieceToId(token.text); processor.IdToPiece(token.id) == token.text)
        by_text.emplace(token.text, token);
    for (const int id : {processor.unk_id(), processor.bos_id(), processor.eos_id()})
      if (id >= 0 && id < n_pieces)
        by_text.emplace(processor.IdToPiece(id),
                        AddedToken{.text = processor.IdToPiece(id), .id = id, .special = true});
    const std::int64_t limit = std::int64_t{n_pieces} + std::ssize(settings.added) + kMostIdGaps;
    for (const AddedToken& token : settings.added) {
      if (token.id >= limit)
        throw FormatError(path, "the token \"" + token.text + "\" that is added to it has the id " +
                                    std::to_string(token.id) + ", far beyond the number of tokens");
      by_text[token.text] = token;
    }
    std::vector<AddedToken> tokens;
    for (const auto& [text, token] : by_text) {
      tokens.push_back(token);
      added.emplace(token.id, token);
    }
    matcher = AddedTokenMatcher(std::move(tokens));
  }

  void add_bare(const std::string& bytes) {
    // A message in which a field stands again has the later value: normalizer_spec { add_dummy_prefix: false }
    constexpr std::string_view kNoPrefix("\x1A\x02\x18\x00", 4);
    bare = std::make_unique<sentencepiece::SentencePieceProcessor>();
    load(*bare, bytes + std::string(kNoPrefix));
    unknown = processor.unk_id() >= 0 ? processor.IdToPiece(processor.unk_id()) : "<unk>";
    std::vector<int> pieces;
    require(bare->Encode(unknown, &pieces));
    unknown_length = pieces.size();
  }

  void encode(const sentencepiece::SentencePieceProcessor& with, std::string_view text, std::size_t n_dropped,
              std::vector<std::int32_t>& ids) const {
    std::vector<int> part;
    require(with.Encode(text, &part));
    if (part.size() < n_dropped) n_dropped = 0;
    ids.insert(ids.end(), part.begin() + static_cast<std::ptrdiff_t>(n_dropped), part.end());
  }

  /// What stands between added tokens. The library takes white space at the beginning away, so that the reference puts
  /// the unknown token's name before it and drops that again.
  void encode_part(std::string_view text, bool begins_text, std::vector<std::int32_t>& ids) const {
    bool first = bare != nullptr && (!begins_text || text.starts_with(' '));
    for (bool last = false; !last;) {
      std::size_t cut = text.size();
      if (cuts.at_spaces && text.size() > kSentencepiecePart) cut = find_cut(text, kSentencepiecePart, cuts);
      last = cut == text.size();
      const std::string_view part = text.substr(0, cut);
      if (!first)
        encode(processor, part, 0, ids);
      else if (part.starts_with(' '))
        encode(*bare, unknown + (begins_text ? std::string(kEscapedSpace) : "") + std::string(part), unknown_length,
               ids);
      else
        encode(*bare, part, 0, ids);
      first = false;
      text.remove_prefix(last ? cut : cut + 1);
    }
  }

  /// A model that loads may still contradict itself, which shows on some text only.
  template <class Status>
  void require(const Status& status) const {
    if (!status.ok())
      throw FormatError(path, "sentencepiece fails on a text with this model: " + status.ToString() +
                                  "; get the model's tokenizer.model again");
  }
};

SentencepieceTokenizer::SentencepieceTokenizer(const std::string& path, const TokenizerSettings& settings)
    : impl_(std::make_unique<Impl>()), add_bos_(settings.add_bos.value_or(true)) {
  impl_->path = path;
  const std::string bytes = core::read_text_file(path);
  impl_->cuts = check_sentencepiece_model(std::as_bytes(std::span(bytes)), path);
  impl_->load(impl_->processor, bytes);
  impl_->add_tokens(settings);
  if (is_llama_tokenizer(settings) && !settings.legacy.value_or(true)) impl_->add_bare(bytes);
}
SentencepieceTokenizer::~SentencepieceTokenizer() = default;

std::vector<std::int32_t> SentencepieceTokenizer::encode(std::string_view text) const {
  std::string storage, spaced;
  std::vector<std::int32_t> ids;
  text = valid_utf8(text, storage);
  if (impl_->bare != nullptr && text.find(kEscapedSpace) != std::string_view::npos) {
    spaced = replace_all(text, kEscapedSpace, " ");
    text = spaced;
  }
  bool begins = true;
  impl_->matcher.split(
      text,
      [&](std::string_view part, std::size_t offset) {
        impl_->encode_part(part, offset == 0, ids);
        begins = false;
      },
      [&](std::int32_t id) {
        // The space in front of the text is a token where no special one follows it.
        if (impl_->bare != nullptr && begins && !impl_->added.at(id).special)
          ids.push_back(impl_->processor.PieceToId(std::string(kEscapedSpace)));
        begins = false;
        ids.push_back(id);
      });
  return ids;
}

std::string SentencepieceTokenizer::decode(std::span<const std::int32_t> ids) const {
  std::string text;
  std::vector<int> known;
  const auto flush = [&] {
    std::string part;
    impl_->require(impl_->processor.Decode(known, &part));
    text += part;
    known.clear();
  };
  for (const std::int32_t id : ids) {
    const bool is_piece = id >= 0 && id < impl_->processor.GetPieceSize();
    const auto added = is_piece ? impl_->added.end() : impl_->added.find(id);
    if (added == impl_->added.end()) {
      known.push_back(is_piece ? id : impl_->processor.unk_id());
      continue;
    }
    flush();
    text += added->second.text;
  }
  flush();
  return text;
}

std::int64_t SentencepieceTokenizer::vocab_size() const {
  const std::int64_t n_pieces = impl_->processor.GetPieceSize();
  return impl_->added.empty() ? n_pieces : std::max(n_pieces, std::int64_t{impl_->added.rbegin()->first} + 1);
}

std::optional<std::int32_t> SentencepieceTokenizer::bos_id() const {
  const int id = impl_->processor.bos_id();
  return id < 0 ? std::nullopt : std::optional<std::int32_t>(id);
}

}  // namespace voronoi::model
