// The files that describe a BPE tokenizer, read into one form.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "model/bpe_tokenizer.h"
#include "model/tokenizer_settings.h"

namespace voronoi::model {

/// Hugging Face's tokenizer.json with a BPE model. Whatever it asks for that is not implemented is refused by name.
BpeSpec read_tokenizer_json(const std::string& path, const TokenizerSettings& settings);

/// GPT-2's pair of files: vocab.json and merges.txt.
BpeSpec read_vocab_and_merges(const std::string& vocab_path, const std::string& merges_path,
                              const TokenizerSettings& settings);

/// tokenizer.ggml.* of a GGUF file: models "gpt2" and "llama".
BpeSpec read_gguf_vocabulary(const std::string& path);

/// A token as GPT-2's alphabet writes its bytes; nothing when it has a character outside of that alphabet.
std::optional<std::string> from_byte_alphabet(std::string_view token);

/// "left right" of a merge list; throws FormatError naming `where`.
std::pair<std::string_view, std::string_view> split_merge(std::string_view merge, const std::string& file,
                                                          const std::string& where);

BpeSpec::Step regex_step(std::string_view pattern, const std::string& file);

/// GPT-2's pre-tokenizer.
inline constexpr std::string_view kGpt2Pattern =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

}  // namespace voronoi::model
