// Checks a sentencepiece model file before its library, which trusts it in places, gets it; and looks up what the
// library does not tell.
#pragma once

#include <cstddef>
#include <functional>
#include <set>
#include <span>
#include <string>

namespace voronoi::model {

/// Where a text may be cut so that the ids of the parts, one after the other, are those of the whole.
struct SentencepieceCuts {
  /// At a single space behind any character that is not in `joined`, the space left out: the next part gets it back as
  /// the dummy prefix. So it is in a BPE model that takes texts as they are: merges look at neighbours alone, and no
  /// piece reaches over such a place.
  bool at_spaces = false;
  std::set<std::string, std::less<>> joined;  ///< characters that stand before a space in some piece
};

/// Throws FormatError naming the file and the byte or piece at fault.
SentencepieceCuts check_sentencepiece_model(std::span<const std::byte> bytes, const std::string& file);

}  // namespace voronoi::model
