// Byte-pair encoding in both its forms: over bytes (GPT-2, Llama-3, Qwen, SmolLM) and over characters with bytes for
// what the vocabulary lacks (Llama-2's sentencepiece vocabulary as tokenizer.json or GGUF hold it).
#pragma once

#include <array>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "model/added_tokens.h"
#include "model/merge_table.h"
#include "model/regex_split.h"
#include "model/tokenizer.h"
#include "model/unicode.h"

namespace voronoi::model {

/// Everything that a file says about a BPE tokenizer.
struct BpeSpec {
  enum class Alphabet { bytes, characters };
  /// absent: no such id. piece: takes part in merging. literal: only matched as an added token or put in by others.
  enum class Kind : std::uint8_t { absent, piece, literal, byte };
  struct Token {
    std::string text;  ///< alphabet bytes: the bytes it stands for; characters: as written, with U+2581 for spaces
    Kind kind = Kind::absent;
  };
  struct Merge {
    std::int32_t left, right;
    std::uint32_t rank;
    std::int32_t id;
  };
  struct Normalizer {
    enum class Kind { unicode, prepend, replace } kind;
    UnicodeForm form = UnicodeForm::nfc;
    std::string pattern = {}, content = {};        ///< replace: pattern by content
    std::shared_ptr<const Regex> regex = nullptr;  ///< replace: its matches, in place of the pattern
  };
  struct Step {
    /// regex: matches and gaps apart, then as `behavior` says. prefix_space: a space before pieces that lack one.
    /// metaspace: spaces become U+2581.
    enum class Kind { regex, prefix_space, metaspace } kind;
    enum class Prepend { never, first, always };
    std::shared_ptr<const Regex> regex;
    SplitBehavior behavior = SplitBehavior::isolated;  ///< regex: of matches, or with `invert` of what lies between
    bool invert = false;
    Prepend prepend = Prepend::never;  ///< metaspace: U+2581 before no piece, the text's first one, every one
    bool split = false;                ///< metaspace: a piece ends before every U+2581
  };

  std::string file;
  Alphabet alphabet = Alphabet::bytes;
  std::vector<Token> tokens;  ///< by id
  std::vector<Merge> merges;  ///< of a pair that stands twice the last counts
  std::vector<Normalizer> normalizers;
  std::vector<Step> steps;
  std::vector<AddedToken> added;
  bool ignore_merges = false;  ///< a word that is a token is that token
  bool byte_fallback = false;  ///< characters: what is no token becomes "<0xAB>" tokens
  std::optional<std::int32_t>
      unknown;  ///< for what has no token at all; without it such bytes vanish, as in `tokenizers`
  bool fuse_unknown = false;
  bool strip_leading_space = false;  ///< when decoding characters
  std::optional<std::int32_t> bos;
  bool automatic_bos = false;
};

/// "<0xAB>" as its byte.
std::optional<unsigned char> byte_of_name(std::string_view name);

class BpeTokenizer final : public Tokenizer {
 public:
  /// Throws FormatError when the parts do not fit together.
  explicit BpeTokenizer(BpeSpec spec);
  BpeTokenizer(const BpeTokenizer&) = delete;
  BpeTokenizer& operator=(const BpeTokenizer&) = delete;

  std::vector<std::int32_t> encode(std::string_view text) const override;
  std::string decode(std::span<const std::int32_t> ids) const override;
  std::int64_t vocab_size() const override { return static_cast<std::int64_t>(spec_.tokens.size()); }
  std::optional<std::int32_t> bos_id() const override { return spec_.bos; }
  std::optional<std::int32_t> automatic_bos() const override { return spec_.automatic_bos ? spec_.bos : std::nullopt; }

 private:
  class Encoder;
  std::string normalize(std::string_view text) const;

  BpeSpec spec_;
  MergeTable merges_;
  std::unordered_map<std::string_view, std::int32_t> id_of_;  ///< pieces only; keys lie in spec_.tokens
  std::array<std::int32_t, 256> byte_ids_{};                  ///< of single bytes, -1 without
  AddedTokenMatcher raw_tokens_, normalized_tokens_;
  /// Nothing merges across a place where U+2581 begins, so that words can be looked up one by one.
  bool cut_at_spaces_ = false;
};

}  // namespace voronoi::model
