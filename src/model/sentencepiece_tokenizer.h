// sentencepiece's tokenizer.model, through its own library, with the added tokens that stand beside it.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "model/tokenizer.h"
#include "model/tokenizer_settings.h"

namespace voronoi::model {

/// Bytes of text that are tokenized at a time, where the model lets a text be cut; the library takes 130 bytes of
/// memory a byte of text.
inline constexpr std::size_t kSentencepiecePart = std::size_t{1} << 16;

/// Added tokens, and the special ones (the model's own unknown, BOS and EOS among them), are matched in the text first.
/// Each part between them is a text of its own for the library, with the model's space in front; in Llama's tokenizers
/// with "legacy": false only a part that begins the text has one.
class SentencepieceTokenizer final : public Tokenizer {
 public:
  /// BOS is automatic, when the model has one, unless the settings say otherwise. Throws StoreError / FormatError.
  SentencepieceTokenizer(const std::string& path, const TokenizerSettings& settings);
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
