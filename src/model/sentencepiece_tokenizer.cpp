#include "model/sentencepiece_tokenizer.h"

#include <sentencepiece_processor.h>

#include <span>

#include "core/error.h"
#include "core/file.h"
#include "model/sentencepiece_check.h"
#include "model/unicode.h"

namespace voronoi::model {

using core::FormatError;

struct SentencepieceTokenizer::Impl {
  sentencepiece::SentencePieceProcessor processor;
  std::string path;

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
  check_sentencepiece_model(std::as_bytes(std::span(bytes)), path);
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
  std::vector<int> ids;
  impl_->require(impl_->processor.Encode(valid_utf8(text, storage), &ids));
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
