// Tokens that are matched in the text itself, before anything else is done to it.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace voronoi::model {

struct AddedToken {
  std::string text;
  std::int32_t id = 0;
  bool lstrip = false, rstrip = false;  ///< white space before or after it belongs to it
  bool normalized = false;              ///< matched after normalization, in its normalized form
  bool single_word = false;             ///< matched only where no word goes on at its ends
  bool special = false;
};

/// Finds the leftmost, longest of a set of tokens.
class AddedTokenMatcher {
 public:
  AddedTokenMatcher() = default;
  /// The tokens' texts are not empty and differ.
  explicit AddedTokenMatcher(std::vector<AddedToken> tokens);
  bool empty() const { return tokens_.empty(); }

  /// Calls text(part, offset) and token(id) in order. White space that a token takes in is passed to neither.
  template <class OnText, class OnToken>
  void split(std::string_view text, OnText&& on_text, OnToken&& on_token) const {
    std::size_t done = 0;
    Match match;
    while (find(text, done, match)) {
      if (match.begin > done) on_text(text.substr(done, match.begin - done), done);
      on_token(match.id);
      done = match.end;
    }
    if (done < text.size()) on_text(text.substr(done), done);
  }

 private:
  struct Match {
    std::size_t begin = 0, end = 0;
    std::int32_t id = 0;
  };
  struct Edge {
    std::uint64_t key;  ///< node * 256 + byte
    std::uint32_t node;
  };
  bool find(std::string_view text, std::size_t start, Match& match) const;
  std::uint32_t child(std::uint32_t node, char byte) const;

  std::vector<AddedToken> tokens_;
  // A trie: edges sorted by key; node 0 is the root and no edge leads to it.
  std::vector<Edge> edges_;
  std::vector<std::int32_t> token_at_;  ///< a node each: index into tokens_, or -1
  std::vector<std::uint32_t> first_;    ///< child of the root for each of 256 bytes, 0 = none
};

}  // namespace voronoi::model
