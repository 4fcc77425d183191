#include "model/sentencepiece_tokenizer.h"

#include <sentencepiece_processor.h>

#include <span>

#include "core/error.h"
#include "core/file.h"
#include "model/sentencepiece_check.h"
#include "model/unicode.h"

namespace voronoi::model {

using core::FormatError;

namespace {

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
  SentencepieceCuts cuts;
  std::string path;

  void encode(std::string_view text, std::vector<std::int32_t>& ids) const {
    std::vector<int> part;
    require(processor.Encode(text, &part));
    ids.insert(ids.end(), part.begin(), part.end());
  }
  /// A model that loads may still contradict itself, which shows on some text only.
  template <class Status>
  void require(const Status& status) const {
    if (!status.ok())
      throw FormatError(path, "sentencepiece fails on a text with this model: " + status.ToString() +
                                  "; get the model's tokenizer.model again");
  }
};

SentencepieceTokenizer::SentencepieceTokenizer(const std::string& path, bool add_bos)
    : impl_(std::make_unique<Impl>()), add_bos_(add_bos) {
  impl_->path = path;
  const std::string bytes = core::read_text_file(path);
  impl_->cuts = check_sentencepiece_model(std::as_bytes(std::span(bytes)), path);
  std::string problem;
  try {
    const auto status = impl_->processor.LoadFromSerializedProto(bytes);
    if (!status.ok()) problem = status.ToString();
  } catch (const std::exception& error) {
    problem = error.what();
  }
  if (!problem.empty()) throw FormatError(path, "is refused by sentencepiece: " + problem);
}
SentencepieceTokenizer::~SentencepieceTokenizer() = default;

std::vector<std::int32_t> SentencepieceTokenizer::encode(std::string_view text) const {
  std::string storage;
  std::vector<std::int32_t> ids;
  text = valid_utf8(text, storage);
  while (impl_->cuts.at_spaces && text.size() > kSentencepiecePart) {
    const std::size_t cut = find_cut(text, kSentencepiecePart, impl_->cuts);
    if (cut == text.size()) break;
    impl_->encode(text.substr(0, cut), ids);
    text.remove_prefix(cut + 1);
  }
  impl_->encode(text, ids);
  return ids;
}

std::string SentencepieceTokenizer::decode(std::span<const std::int32_t> ids) const {
  std::vector<int> known(ids.begin(), ids.end());
  for (int& id : known)
    if (id < 0 || id >= impl_->processor.GetPieceSize()) id = impl_->processor.unk_id();
  std::string text;
  impl_->require(impl_->processor.Decode(known, &text));
  return text;
}

std::int64_t SentencepieceTokenizer::vocab_size() const { return impl_->processor.GetPieceSize(); }

std::optional<std::int32_t> SentencepieceTokenizer::bos_id() const {
  const int id = impl_->processor.bos_id();
  return id < 0 ? std::nullopt : std::optional<std::int32_t>(id);
}

}  // namespace voronoi::model
