#define PCRE2_CODE_UNIT_WIDTH 8
#include "model/regex_split.h"

#include <pcre2.h>

#include <algorithm>
#include <array>
#include <utility>

#include "core/error.h"
#include "model/unicode.h"

namespace voronoi::model {
namespace {

using core::FormatError;

constexpr std::size_t kLongestPattern = std::size_t{1} << 16;
constexpr std::size_t kJitStackStart = std::size_t{1} << 15, kJitStackMost = std::size_t{1} << 26;
// Members of White_Space. PCRE2's \s has U+180E besides, Oniguruma's has not.
constexpr std::string_view kSpaceRanges =
    R"(\x{09}-\x{0D}\x{20}\x{85}\x{A0}\x{1680}\x{2000}-\x{200A}\x{2028}\x{2029}\x{202F}\x{205F}\x{3000})";

/// Oniguruma's (Ruby) dialect to PCRE2's. What both read alike passes; what they read differently is rewritten or
/// refused.
class Translator {
 public:
  Translator(std::string_view pattern, const std::string& file) : pattern_(pattern), file_(file) {}

  std::string run() {
    for (at_ = 0; at_ < pattern_.size();) {
      const char c = pattern_[at_];
      if (c == '\\')
        escape();
      else if (in_class_)
        class_member(c);
      else if (c == '[')
        open_class();
      else if (c == '(')
        group();
      else if (c == '{' && next(1) == ',')
        refuse("{,n}");
      else if (c == '}' && next(1) == '+')
        refuse("a possessive {n,m}+");
      else
        copy(1);
    }
    return std::move(out_);
  }

 private:
  char next(std::size_t n) const { return at_ + n < pattern_.size() ? pattern_[at_ + n] : '\0'; }
  void copy(std::size_t n) {
    out_.append(pattern_.substr(at_, n));
    at_ += n;
  }
  [[noreturn]] void refuse(const std::string& what) const {
    throw FormatError(file_,
                      "regular expression " + std::string(pattern_) + " uses " + what + ", which is not supported");
  }

  void escape() {
    const char c = next(1);
    const bool letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
    if (c == 's') {
      out_ += in_class_ ? std::string(kSpaceRanges) : "[" + std::string(kSpaceRanges) + "]";
      at_ += 2;
    } else if (c == 'S' && !in_class_) {
      out_ += "[^" + std::string(kSpaceRanges) + "]";
      at_ += 2;
    } else if (c == 'x' && next(2) != '{') {
      refuse("\\x without braces");
    } else if (c == '\0' || (c >= '0' && c <= '9') ||
               (letter && std::string_view("pPrntfdDx").find(c) == std::string_view::npos)) {
      refuse(std::string("\\") + c + (in_class_ ? " in a class" : ""));
    } else if (next(2) == '{' && (c == 'p' || c == 'P' || c == 'x')) {
      const std::size_t end = pattern_.find('}', at_);
      if (end == std::string_view::npos) refuse(std::string("\\") + c + "{ without its }");
      copy(end + 1 - at_);
    } else {
      copy(2);
    }
  }

  void open_class() {
    in_class_ = true;
    copy(1);
    if (next(0) == '^') copy(1);
    if (next(0) == ']') refuse("] as the first member of a class");
  }

  void class_member(char c) {
    if (c == '[') refuse("a class in a class");
    if (c == '&' && next(1) == '&') refuse("&& in a class");
    if (c == ']') in_class_ = false;
    copy(1);
  }

  void group() {
    if (next(1) == '*') refuse("a verb (*...)");
    if (next(1) != '?') return copy(1);
    for (const std::string_view known : {"(?:", "(?=", "(?!", "(?<=", "(?<!", "(?>", "(?i:", "(?i)"})
      if (pattern_.substr(at_).starts_with(known)) return copy(known.size());
    refuse("a group " + std::string(pattern_.substr(at_, 4)));
  }

  std::string_view pattern_;
  const std::string& file_;
  std::string out_;
  std::size_t at_ = 0;
  bool in_class_ = false;
};

std::string message_of(int code) {
  std::array<PCRE2_UCHAR, 256> text{};
  pcre2_get_error_message(code, text.data(), text.size());
  return reinterpret_cast<const char*>(text.data());
}

}  // namespace

void apply(SplitBehavior behavior, std::vector<MarkedPart>& parts) {
  std::vector<MarkedPart> pieces;
  const auto join = [&](bool backwards, auto&& merges) {
    bool previous = false;
    for (std::size_t i = 0; i < parts.size(); ++i) {
      const MarkedPart& part = parts[backwards ? parts.size() - 1 - i : i];
      if (merges(part.delimiter, previous) && !pieces.empty())
        (backwards ? pieces.back().begin : pieces.back().end) = backwards ? part.begin : part.end;
      else
        pieces.push_back(part);
      previous = part.delimiter;
    }
    if (backwards) std::reverse(pieces.begin(), pieces.end());
  };
  const auto first_delimiter = [](bool delimiter, bool previous) { return delimiter && !previous; };
  switch (behavior) {
    case SplitBehavior::isolated:
      return;
    case SplitBehavior::removed:
      std::erase_if(parts, [](const MarkedPart& part) { return part.delimiter; });
      return;
    case SplitBehavior::contiguous:
      join(false, [](bool delimiter, bool previous) { return delimiter == previous; });
      break;
    case SplitBehavior::merged_with_previous:
      join(false, first_delimiter);
      break;
    case SplitBehavior::merged_with_next:
      join(true, first_delimiter);
      break;
  }
  parts = std::move(pieces);
}

struct Regex::Impl {
  std::unique_ptr<pcre2_code, decltype(&pcre2_code_free)> code{nullptr, &pcre2_code_free};
  bool jit = false;
  std::string file, pattern;
};

struct Regex::Workspace::Impl {
  std::unique_ptr<pcre2_match_data, decltype(&pcre2_match_data_free)> data{pcre2_match_data_create(1, nullptr),
                                                                           &pcre2_match_data_free};
  std::unique_ptr<pcre2_match_context, decltype(&pcre2_match_context_free)> context{pcre2_match_context_create(nullptr),
                                                                                    &pcre2_match_context_free};
  std::unique_ptr<pcre2_jit_stack, decltype(&pcre2_jit_stack_free)> stack{
      pcre2_jit_stack_create(kJitStackStart, kJitStackMost, nullptr), &pcre2_jit_stack_free};
};

Regex::Workspace::Workspace() : impl_(std::make_unique<Impl>()) {
  if (!impl_->data || !impl_->context) throw std::bad_alloc();
  if (impl_->stack) pcre2_jit_stack_assign(impl_->context.get(), nullptr, impl_->stack.get());
}
Regex::Workspace::~Workspace() = default;

Regex::Regex(std::string_view pattern, const std::string& file) : impl_(std::make_unique<Impl>()) {
  if (pattern.size() > kLongestPattern)
    throw FormatError(file, "a regular expression has " + std::to_string(pattern.size()) + " bytes");
  if (!is_valid_utf8(pattern)) throw FormatError(file, "a regular expression is not valid UTF-8");
  impl_->file = file;
  impl_->pattern = pattern;
  const std::string translated = Translator(pattern, file).run();
  const std::unique_ptr<pcre2_compile_context, decltype(&pcre2_compile_context_free)> context(
      pcre2_compile_context_create(nullptr), &pcre2_compile_context_free);
  if (!context) throw std::bad_alloc();
  pcre2_set_newline(context.get(), PCRE2_NEWLINE_LF);
  int error = 0;
  PCRE2_SIZE offset = 0;
  // In Ruby's dialect ^ and $ stand at every line.
  impl_->code.reset(pcre2_compile(reinterpret_cast<PCRE2_SPTR>(translated.data()), translated.size(),
                                  PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C, &error, &offset,
                                  context.get()));
  if (!impl_->code)
    throw FormatError(file, "regular expression " + impl_->pattern + " cannot be compiled: " + message_of(error));
  impl_->jit = pcre2_jit_compile(impl_->code.get(), PCRE2_JIT_COMPLETE) == 0;
}
Regex::~Regex() = default;
Regex::Regex(Regex&&) noexcept = default;

const std::string& Regex::pattern() const { return impl_->pattern; }

bool Regex::find(std::string_view text, std::size_t start, Workspace& workspace, Match& match) const {
  const auto subject = reinterpret_cast<PCRE2_SPTR>(text.data());
  Workspace::Impl& space = *workspace.impl_;
  const int found = impl_->jit
                        ? pcre2_jit_match(impl_->code.get(), subject, text.size(), start,
                                          PCRE2_NOTEMPTY | PCRE2_NO_UTF_CHECK, space.data.get(), space.context.get())
                        : pcre2_match(impl_->code.get(), subject, text.size(), start,
                                      PCRE2_NOTEMPTY | PCRE2_NO_UTF_CHECK, space.data.get(), space.context.get());
  if (found == PCRE2_ERROR_NOMATCH) return false;
  if (found < 0)
    throw FormatError(impl_->file, "regular expression " + impl_->pattern + " fails on a text: " + message_of(found));
  const PCRE2_SIZE* bounds = pcre2_get_ovector_pointer(space.data.get());
  match = {bounds[0], bounds[1]};
  return true;
}

}  // namespace voronoi::model
