// Regular expressions of tokenizers: text into matches and what lies between them.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace voronoi::model {

/// What becomes of the matches of a splitting pattern, as `tokenizers` names it.
enum class SplitBehavior { isolated, removed, contiguous, merged_with_previous, merged_with_next };

/// A part of a text, and whether it delimits.
struct MarkedPart {
  std::size_t begin = 0, end = 0;
  bool delimiter = false;
};
/// The pieces that a behaviour leaves of parts that cover a text, in order.
void apply(SplitBehavior behavior, std::vector<MarkedPart>& parts);

/// A compiled pattern of Oniguruma's dialect (what tokenizer.json files hold), matched by PCRE2. Constructs that mean
/// something else in PCRE2 are translated or refused. Immutable: several threads may use one at a time.
class Regex {
 public:
  /// `file` is named in errors. Throws FormatError.
  Regex(std::string_view pattern, const std::string& file);
  ~Regex();
  Regex(Regex&&) noexcept;

  /// As given.
  const std::string& pattern() const;

  /// What one thread needs to match; reusable over calls and patterns.
  class Workspace {
   public:
    Workspace();
    ~Workspace();
    Workspace(const Workspace&) = delete;
    Workspace& operator=(const Workspace&) = delete;

   private:
    friend class Regex;
    struct Impl;
    std::unique_ptr<Impl> impl_;
  };

  /// Calls emit(part, whether it is a match) for every match and every gap, in order; together they are the text (valid
  /// UTF-8).
  template <class Emit>
  void split(std::string_view text, Workspace& workspace, Emit&& emit) const {
    std::size_t done = 0, search = 0;
    Match match;
    while (search < text.size() && find(text, search, workspace, match)) {
      if (match.begin > done) emit(text.substr(done, match.begin - done), false);
      emit(text.substr(match.begin, match.end - match.begin), true);
      done = search = match.end;
    }
    if (done < text.size()) emit(text.substr(done), false);
  }

 private:
  struct Match {
    std::size_t begin = 0, end = 0;
  };
  /// The next match that is not empty.
  bool find(std::string_view text, std::size_t start, Workspace& workspace, Match& match) const;
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace voronoi::model
