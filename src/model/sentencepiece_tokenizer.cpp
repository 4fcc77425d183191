#include "model/sentencepiece_tokenizer.h"

#include <sentencepiece_processor.h>

#include "core/error.h"
#include "core/file.h"
#include "model/sentencepiece_check.h"
#include "model/unicode.h"

namespace voronoi::model {

using core::FormatError;

namespace {

// The library takes 130 bytes of memory a byte of text.
constexpr std::size_t kPartBytes = std::size_t{1} << 16;

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

  void encode(std::string_view text, std::vector<std::int32_t>& ids) const {
    std::vector<int> part;
    const auto status = processor.Encode(text, &part);
    if (!status.ok()) throw core::InternalError("sentencepiece: " + status.ToString());
    ids.insert(ids.end(), part.begin(), part.end());
  }
};

SentencepieceTokenizer::SentencepieceTokenizer(const std::string& path, bool add_bos)
    : impl_(std::make_unique<Impl>()), add_bos_(add_bos) {
  const core::MappedFile file(path);
  impl_->cuts = check_sentencepiece_model(file.bytes(), path);
  std::string problem;
  try {
    const auto status = impl_->processor.LoadFromSerializedProto(
        {reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size()});
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
  while (impl_->cuts.at_spaces && text.size() > kPartBytes) {
    const std::size_t cut = find_cut(text, kPartBytes, impl_->cuts);
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
  const auto status = impl_->processor.Decode(known, &text);
  if (!status.ok()) throw core::InternalError("sentencepiece: " + status.ToString());
  return text;
}

std::int64_t SentencepieceTokenizer::vocab_size() const { return impl_->processor.GetPieceSize(); }

std::optional<std::int32_t> SentencepieceTokenizer::bos_id() const {
  const int id = impl_->processor.bos_id();
  return id < 0 ? std::nullopt : std::optional<std::int32_t>(id);
}

}  // namespace voronoi::model
