// sentencepiece's tokenizer.model, through its own library.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "model/tokenizer.h"

namespace voronoi::model {

/// Bytes of text that are tokenized at a time, where the model lets a text be cut; the library takes 130 bytes of
/// memory a byte of text.
inline constexpr std::size_t kSentencepiecePart = std::size_t{1} << 16;

class SentencepieceTokenizer final : public Tokenizer {
 public:
  /// add_bos: whether BOS is automatic, when the model has one. Throws StoreError / FormatError.
  SentencepieceTokenizer(const std::string& path, bool add_bos);
  ~SentencepieceTokenizer() override;
  SentencepieceTokenizer(const SentencepieceTokenizer&) = delete;
  SentencepieceTokenizer& operator=(const SentencepieceTokenizer&) = delete;

  std::vector<std::int32_t> encode(std::string_view text) const override;
  std::string decode(std::span<const std::int32_t> ids) const override;
  std::int64_t vocab_size() const override;
  std::optional<std::int32_t> bos_id() const override;
  std::optional<std::int32_t> automatic_bos() const override { return add_bos_ ? bos_id() : std::nullopt; }

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
  bool add_bos_;
};

}  // namespace voronoi::model
