// Text to ids and back, as the model's own tokenizer does it.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace voronoi::model {

class Tokenizer {
 public:
  virtual ~Tokenizer() = default;
  /// Ids of the text; special tokens written in the text are not recognised unless the tokenizer's file marks them as
  /// added tokens that match in text; BOS is never added here. Invalid UTF-8 is replaced by U+FFFD.
  virtual std::vector<std::int32_t> encode(std::string_view text) const = 0;
  /// The bytes of the tokens one after the other (ids that end inside a character give an incomplete one); an id
  /// without a token is U+FFFD.
  virtual std::string decode(std::span<const std::int32_t> ids) const = 0;
  /// The largest id and one; a model may have more rows than that.
  virtual std::int64_t vocab_size() const = 0;
  /// The id of BOS, whether or not the tokenizer puts it by itself.
  virtual std::optional<std::int32_t> bos_id() const { return automatic_bos(); }
  /// The BOS id that the tokenizer itself puts before a text, if it does.
  virtual std::optional<std::int32_t> automatic_bos() const = 0;
};

/// `path`: a model directory (tokenizer.json, else tokenizer.model, else vocab.json and merges.txt, each with the
/// settings and added tokens beside it), a GGUF file, or a tokenizer.json / *.model file itself. Throws FormatError
/// naming file and remedy.
std::unique_ptr<Tokenizer> open_tokenizer(const std::string& path);

}  // namespace voronoi::model
