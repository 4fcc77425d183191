#include "model/bpe_tokenizer.h"

#include <algorithm>
#include <cstring>

#include "core/error.h"
#include "model/unicode.h"

namespace voronoi::model {
namespace {

using core::FormatError;

constexpr std::string_view kMetaspace = "\xE2\x96\x81";
constexpr std::string_view kReplacement = "\xEF\xBF\xBD";
constexpr std::size_t kLongestCachedWord = 64;
constexpr std::size_t kMostCachedWords = std::size_t{1} << 18;
// A few dozen replacements of "a" by "aa" would make gigabytes of a word.
constexpr std::size_t kMostGrowth = 64, kFreeGrowth = 4096;
// Each is a level of recursion; known tokenizers have up to five.
constexpr std::size_t kMostSteps = 64;

/// `grow`(matches, bytes each): throws where that is too much.
template <class Grow>
std::string replace_matches(const Regex& regex, std::string_view text, std::string_view content, Grow&& grow) {
  Regex::Workspace workspace;
  std::vector<MarkedPart> parts;
  std::size_t at = 0, n_matches = 0;
  regex.split(text, workspace, [&](std::string_view part, bool match) {
    parts.push_back({at, at + part.size(), match});
    at += part.size();
    n_matches += match ? 1 : 0;
  });
  grow(n_matches, content.size());
  std::string out;
  for (const MarkedPart& part : parts) out += part.delimiter ? content : text.substr(part.begin, part.end - part.begin);
  return out;
}

std::size_t count_of(std::string_view text, std::string_view pattern) {
  std::size_t count = 0;
  for (std::size_t at = text.find(pattern); at != std::string_view::npos; at = text.find(pattern, at + pattern.size()))
    ++count;
  return count;
}

/// First place after `at` where U+2581 follows something else, or npos.
std::size_t next_word(std::string_view text, std::size_t at) {
  for (std::size_t found = text.find(kMetaspace, std::max<std::size_t>(at + 1, 1)); found != std::string_view::npos;
       found = text.find(kMetaspace, found + 1))
    if (!text.substr(0, found).ends_with(kMetaspace)) return found;
  return std::string_view::npos;
}

/// Ids of the words met so far.
class WordCache {
 public:
  WordCache() : slots_(64) {}

  /// The word's slot: with its ids, or to be given to add().
  std::size_t find(std::string_view word, std::uint64_t hash, bool& known) const {
    std::size_t slot = static_cast<std::size_t>(hash) & (slots_.size() - 1);
    for (;; slot = (slot + 1) & (slots_.size() - 1)) {
      const Slot& s = slots_[slot];
      known = s.length != 0;
      if (!known) return slot;
      if (s.hash == hash && s.length == word.size() &&
          std::memcmp(bytes_.data() + s.word, word.data(), word.size()) == 0)
        return slot;
    }
  }
  std::span<const std::int32_t> ids(std::size_t slot) const {
    return {ids_.data() + slots_[slot].first_id, slots_[slot].n_ids};
  }
  void add(std::size_t slot, std::string_view word, std::uint64_t hash, std::span<const std::int32_t> ids) {
    if (n_words_ == kMostCachedWords) return;
    slots_[slot] = {hash, bytes_.size(), ids_.size(), static_cast<std::uint32_t>(word.size()),
                    static_cast<std::uint32_t>(ids.size())};
    bytes_.append(word);
    ids_.insert(ids_.end(), ids.begin(), ids.end());
    if (2 * ++n_words_ > slots_.size()) grow();
  }

  /// Words are short: eight bytes a step, each multiplied in and folded.
  static std::uint64_t hash(std::string_view word) {
    std::uint64_t value = word.size() * 0x9E3779B97F4A7C15ULL;
    const char* at = word.data();
    std::size_t left = word.size();
    const auto mix = [&](std::uint64_t part) {
      value = (value ^ part) * 0xBF58476D1CE4E5B9ULL;
      value ^= value >> 32;
    };
    for (; left >= 8; at += 8, left -= 8) {
      std::uint64_t part;
      std::memcpy(&part, at, 8);
      mix(part);
    }
    std::uint64_t part = 0;
    std::memcpy(&part, at, left);
    mix(part);
    return value ^ (value >> 29);
  }

 private:
  struct Slot {
    std::uint64_t hash = 0;
    std::size_t word = 0, first_id = 0;
    std::uint32_t length = 0, n_ids = 0;  ///< length 0: free
  };
  void grow() {
    std::vector<Slot> old(4 * slots_.size());
    old.swap(slots_);
    for (const Slot& s : old) {
      if (s.length == 0) continue;
      std::size_t slot = static_cast<std::size_t>(s.hash) & (slots_.size() - 1);
      while (slots_[slot].length != 0) slot = (slot + 1) & (slots_.size() - 1);
      slots_[slot] = s;
    }
  }
  std::vector<Slot> slots_;
  std::string bytes_;
  std::vector<std::int32_t> ids_;
  std::size_t n_words_ = 0;
};

}  // namespace

std::optional<unsigned char> byte_of_name(std::string_view name) {
  if (name.size() != 6 || !name.starts_with("<0x") || name[5] != '>') return std::nullopt;
  unsigned value = 0;
  for (const char c : name.substr(3, 2)) {
    if (c >= '0' && c <= '9')
      value = 16 * value + static_cast<unsigned>(c - '0');
    else if (c >= 'A' && c <= 'F')
      value = 16 * value + static_cast<unsigned>(c - 'A') + 10;
    else
      return std::nullopt;
  }
  return static_cast<unsigned char>(value);
}

BpeTokenizer::BpeTokenizer(BpeSpec spec) : spec_(std::move(spec)), merges_(spec_.merges.size()) {
  const auto n = static_cast<std::int32_t>(spec_.tokens.size());
  const auto check_id = [&](std::int32_t id, const char* what) {
    if (id < 0 || id >= n || spec_.tokens[static_cast<std::size_t>(id)].kind == BpeSpec::Kind::absent)
      throw FormatError(spec_.file, std::string("the id ") + std::to_string(id) + " of " + what +
                                        " is not in the vocabulary of " + std::to_string(n) + " ids");
  };
  if (spec_.steps.size() > kMostSteps)
    throw FormatError(spec_.file, "the pre-tokenizer has " + std::to_string(spec_.steps.size()) + " steps; at most " +
                                      std::to_string(kMostSteps) + " are read");
  const bool bytes = spec_.alphabet == BpeSpec::Alphabet::bytes;
  byte_ids_.fill(-1);
  id_of_.reserve(spec_.tokens.size());
  for (std::int32_t id = 0; id < n; ++id) {
    const BpeSpec::Token& token = spec_.tokens[static_cast<std::size_t>(id)];
    if (token.kind == BpeSpec::Kind::piece) {
      if (const auto [at, fresh] = id_of_.try_emplace(token.text, id); !fresh)
        throw FormatError(
            spec_.file, "the ids " + std::to_string(at->second) + " and " + std::to_string(id) + " are the same token");
      if (bytes && token.text.size() == 1) byte_ids_[static_cast<unsigned char>(token.text[0])] = id;
    }
    if (!bytes && token.kind == BpeSpec::Kind::byte) byte_ids_[*byte_of_name(token.text)] = id;
  }
  if (!bytes && spec_.byte_fallback && std::count(byte_ids_.begin(), byte_ids_.end(), -1) != 0)
    throw FormatError(spec_.file,
                      "bytes stand in for unknown characters, but not all 256 tokens <0x00> to <0xFF> are there");
  cut_at_spaces_ = !bytes && !spec_.ignore_merges && id_of_.contains(kMetaspace) &&
                   std::none_of(id_of_.begin(), id_of_.end(),
                                [](const auto& piece) { return next_word(piece.first, 0) != std::string_view::npos; });
  for (const BpeSpec::Merge& merge : spec_.merges) {
    for (const std::int32_t id : {merge.left, merge.right, merge.id}) check_id(id, "a merge");
    merges_.set(merge.left, merge.right, {merge.rank, merge.id});
  }
  if (spec_.unknown) check_id(*spec_.unknown, "the unknown token");
  if (spec_.bos) check_id(*spec_.bos, "the BOS token");
  if (spec_.automatic_bos && !spec_.bos) throw FormatError(spec_.file, "a BOS token is to be added, but none is named");
  std::vector<AddedToken> raw, normalized;
  for (AddedToken& token : spec_.added) {
    check_id(token.id, "an added token");
    if (token.normalized) token.text = normalize(token.text);
    if (token.text.empty()) throw FormatError(spec_.file, "the added token " + std::to_string(token.id) + " is empty");
    (token.normalized ? normalized : raw).push_back(std::move(token));
  }
  raw_tokens_ = AddedTokenMatcher(std::move(raw));
  normalized_tokens_ = AddedTokenMatcher(std::move(normalized));
}

std::string BpeTokenizer::normalize(std::string_view text) const {
  std::string out(text);
  const std::size_t limit = kMostGrowth * text.size() + kFreeGrowth;
  const auto grow = [&](std::size_t times, std::size_t bytes) {
    if (times > 0 && bytes > (limit - std::min(limit, out.size())) / times)
      throw FormatError(spec_.file, "the normalizer makes more than " + std::to_string(kMostGrowth) +
                                        " times its length of a text, which no tokenizer needs");
  };
  for (const BpeSpec::Normalizer& step : spec_.normalizers) switch (step.kind) {
      case BpeSpec::Normalizer::Kind::unicode:
        out = normalized(out, step.form);
        break;
      case BpeSpec::Normalizer::Kind::prepend:
        grow(1, step.content.size());
        if (!out.empty()) out.insert(0, step.content);
        break;
      case BpeSpec::Normalizer::Kind::replace:
        if (step.regex != nullptr) {
          out = replace_matches(*step.regex, out, step.content, grow);
          break;
        }
        if (step.content.size() > step.pattern.size())
          grow(count_of(out, step.pattern), step.content.size() - step.pattern.size());
        out = replace_all(out, step.pattern, step.content);
        break;
    }
  return out;
}

/// One call of encode(): its memory and the ids so far.
class BpeTokenizer::Encoder {
 public:
  explicit Encoder(const BpeTokenizer& tokenizer) : t_(tokenizer) {}

  std::vector<std::int32_t> run(std::string_view text) {
    ids_.reserve(text.size() / 4 + 8);
    const auto token = [&](std::int32_t id) { ids_.push_back(id); };
    t_.raw_tokens_.split(
        text,
        [&](std::string_view part, std::size_t offset) {
          std::string storage;
          if (!t_.spec_.normalizers.empty()) {
            storage = t_.normalize(part);
            part = storage;
          }
          t_.normalized_tokens_.split(
              part,
              [&](std::string_view inner, std::size_t inner_offset) {
                step(0, inner, offset == 0 && inner_offset == 0);
              },
              token);
        },
        token);
    return std::move(ids_);
  }

 private:
  /// Steps i, i + 1, ... of the pre-tokenizer on a piece; `first`: it begins the text.
  void step(std::size_t i, std::string_view piece, bool first) {
    if (i == t_.spec_.steps.size()) return words(piece);
    const BpeSpec::Step& s = t_.spec_.steps[i];
    switch (s.kind) {
      case BpeSpec::Step::Kind::regex:
        if (s.behavior != SplitBehavior::isolated) return merged_parts(i, piece, first);
        s.regex->split(piece, workspace_, [&](std::string_view part, bool) {
          step(i + 1, part, first);
          first = false;
        });
        break;
      case BpeSpec::Step::Kind::prefix_space: {
        if (piece.starts_with(' ')) return step(i + 1, piece, first);
        std::string prefixed(1, ' ');
        prefixed += piece;
        step(i + 1, prefixed, first);
        break;
      }
      case BpeSpec::Step::Kind::metaspace:
        metaspace(i, piece, first);
        break;
    }
  }

  void merged_parts(std::size_t i, std::string_view piece, bool first) {
    const BpeSpec::Step& s = t_.spec_.steps[i];
    std::vector<MarkedPart> parts;
    std::size_t at = 0;
    s.regex->split(piece, workspace_, [&](std::string_view part, bool match) {
      parts.push_back({at, at + part.size(), match != s.invert});
      at += part.size();
    });
    apply(s.behavior, parts);
    for (const MarkedPart& part : parts)
      step(i + 1, piece.substr(part.begin, part.end - part.begin), first && part.begin == 0);
  }

  void metaspace(std::size_t i, std::string_view piece, bool first) {
    const BpeSpec::Step& s = t_.spec_.steps[i];
    std::string text = replace_all(piece, " ", kMetaspace);
    const bool wanted =
        s.prepend == BpeSpec::Step::Prepend::always || (s.prepend == BpeSpec::Step::Prepend::first && first);
    if (wanted && !text.starts_with(kMetaspace)) text.insert(0, kMetaspace);
    std::string_view rest = text;
    while (!rest.empty()) {
      const std::size_t end = s.split ? std::min(rest.find(kMetaspace, 1), rest.size()) : rest.size();
      step(i + 1, rest.substr(0, end), first);
      first = false;
      rest.remove_prefix(end);
    }
  }

  void words(std::string_view text) {
    if (!t_.cut_at_spaces_) return word(text);
    for (std::size_t at = 0; at < text.size();) {
      const std::size_t end = std::min(next_word(text, at), text.size());
      word(text.substr(at, end - at));
      at = end;
    }
  }

  void word(std::string_view text) {
    if (text.size() > kLongestCachedWord) {
      merge(text);
      ids_.insert(ids_.end(), symbols_.begin(), symbols_.end());
      return;
    }
    const std::uint64_t hash = WordCache::hash(text);
    bool known;
    const std::size_t slot = cache_.find(text, hash, known);
    if (known) {
      const auto ids = cache_.ids(slot);
      ids_.insert(ids_.end(), ids.begin(), ids.end());
      return;
    }
    merge(text);
    ids_.insert(ids_.end(), symbols_.begin(), symbols_.end());
    cache_.add(slot, text, hash, symbols_);
  }

  /// symbols_: the word's ids.
  void merge(std::string_view text) {
    symbols_.clear();
    if (t_.spec_.ignore_merges)
      if (const auto whole = t_.id_of_.find(text); whole != t_.id_of_.end()) {
        symbols_.push_back(whole->second);
        return;
      }
    if (t_.spec_.alphabet == BpeSpec::Alphabet::bytes)
      for (const char c : text) byte_symbol(c);
    else
      for (std::size_t at = 0; at < text.size();) {
        const std::size_t length = std::max<std::size_t>(1, utf8_length(text, at));
        character_symbol(text.substr(at, length));
        at += length;
      }
    t_.merges_.apply(symbols_, scratch_);
  }

  void byte_symbol(char c) {
    const std::int32_t id = t_.byte_ids_[static_cast<unsigned char>(c)];
    if (id >= 0)
      symbols_.push_back(id);
    else
      unknown_symbol();
  }

  void character_symbol(std::string_view character) {
    if (const auto known = t_.id_of_.find(character); known != t_.id_of_.end())
      return symbols_.push_back(known->second);
    if (!t_.spec_.byte_fallback) return unknown_symbol();
    for (const char c : character) symbols_.push_back(t_.byte_ids_[static_cast<unsigned char>(c)]);
  }

  void unknown_symbol() {
    if (!t_.spec_.unknown) return;
    if (t_.spec_.fuse_unknown && !symbols_.empty() && symbols_.back() == *t_.spec_.unknown) return;
    symbols_.push_back(*t_.spec_.unknown);
  }

  const BpeTokenizer& t_;
  Regex::Workspace workspace_;
  WordCache cache_;
  MergeTable::Scratch scratch_;
  std::vector<std::int32_t> symbols_, ids_;
};

std::vector<std::int32_t> BpeTokenizer::encode(std::string_view text) const {
  std::string storage;
  return Encoder(*this).run(valid_utf8(text, storage));
}

std::string BpeTokenizer::decode(std::span<const std::int32_t> ids) const {
  static const BpeSpec::Token kAbsent;
  std::string out;
  for (const std::int32_t id : ids) {
    const bool known = id >= 0 && static_cast<std::size_t>(id) < spec_.tokens.size();
    const BpeSpec::Token& token = known ? spec_.tokens[static_cast<std::size_t>(id)] : kAbsent;
    switch (token.kind) {
      case BpeSpec::Kind::absent:
        out += kReplacement;
        break;
      case BpeSpec::Kind::byte:
        out += static_cast<char>(*byte_of_name(token.text));
        break;
      case BpeSpec::Kind::literal:
        out += token.text;
        break;
      case BpeSpec::Kind::piece:
        out += spec_.alphabet == BpeSpec::Alphabet::bytes ? token.text : replace_all(token.text, kMetaspace, " ");
        break;
    }
  }
  if (spec_.strip_leading_space && out.starts_with(' ')) out.erase(0, 1);
  return out;
}

}  // namespace voronoi::model
