#include "model/added_tokens.h"

#include <algorithm>
#include <map>

#include "core/error.h"
#include "model/unicode.h"

namespace voronoi::model {
namespace {

std::uint64_t edge_key(std::uint32_t node, char byte) {
  return (std::uint64_t{node} << 8) | static_cast<unsigned char>(byte);
}

/// First byte of the white space that ends before `end`, not before `least`.
std::size_t space_before(std::string_view text, std::size_t least, std::size_t end) {
  while (end > least) {
    std::size_t at = end - 1;
    while (at > least && (static_cast<unsigned char>(text[at]) & 0xC0U) == 0x80U) --at;
    const std::size_t length = utf8_length(text, at);
    if (length == 0 || at + length != end || !is_white_space(utf8_code_point(text, at, length))) break;
    end = at;
  }
  return end;
}

std::size_t space_after(std::string_view text, std::size_t at) {
  while (at < text.size()) {
    const std::size_t length = utf8_length(text, at);
    if (length == 0 || !is_white_space(utf8_code_point(text, at, length))) break;
    at += length;
  }
  return at;
}

bool starts_with_word(std::string_view text) {
  const std::size_t length = text.empty() ? 0 : utf8_length(text, 0);
  return length > 0 && is_word_character(utf8_code_point(text, 0, length));
}

bool ends_with_word(std::string_view text) {
  std::size_t at = text.size();
  while (at > 0 && (static_cast<unsigned char>(text[--at]) & 0xC0U) == 0x80U) {
  }
  return starts_with_word(text.substr(at));
}

}  // namespace

AddedTokenMatcher::AddedTokenMatcher(std::vector<AddedToken> tokens)
    : tokens_(std::move(tokens)), token_at_(1, -1), first_(256, 0) {
  std::map<std::uint64_t, std::uint32_t> edges;
  for (std::size_t i = 0; i < tokens_.size(); ++i) {
    VORONOI_REQUIRE(!tokens_[i].text.empty(), "text of an added token");
    std::uint32_t node = 0;
    for (const char byte : tokens_[i].text) {
      const auto [edge, fresh] = edges.try_emplace(edge_key(node, byte), static_cast<std::uint32_t>(token_at_.size()));
      if (fresh) token_at_.push_back(-1);
      if (node == 0) first_[static_cast<unsigned char>(byte)] = edge->second;
      node = edge->second;
    }
    token_at_[node] = static_cast<std::int32_t>(i);
  }
  for (const auto& [key, node] : edges) edges_.push_back({key, node});
}

std::uint32_t AddedTokenMatcher::child(std::uint32_t node, char byte) const {
  const std::uint64_t key = edge_key(node, byte);
  const auto edge =
      std::lower_bound(edges_.begin(), edges_.end(), key, [](const Edge& e, std::uint64_t k) { return e.key < k; });
  return edge != edges_.end() && edge->key == key ? edge->node : 0;
}

bool AddedTokenMatcher::find(std::string_view text, std::size_t start, Match& match) const {
  if (tokens_.empty()) return false;
  for (std::size_t begin = start; begin < text.size(); ++begin) {
    std::uint32_t node = first_[static_cast<unsigned char>(text[begin])];
    if (node == 0) continue;
    std::int32_t found = -1;
    std::size_t end = begin;
    for (std::size_t at = begin + 1; node != 0; ++at) {
      if (token_at_[node] >= 0) {
        found = token_at_[node];
        end = at;
      }
      if (at == text.size()) break;
      node = child(node, text[at]);
    }
    if (found < 0) continue;
    const AddedToken& token = tokens_[static_cast<std::size_t>(found)];
    if (token.single_word && (ends_with_word(text.substr(0, begin)) || starts_with_word(text.substr(end)))) {
      begin = end - 1;  // what begins inside of it is not looked for
      continue;
    }
    match = {token.lstrip ? space_before(text, start, begin) : begin, token.rstrip ? space_after(text, end) : end,
             token.id};
    return true;
  }
  return false;
}

}  // namespace voronoi::model
