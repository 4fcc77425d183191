#include "model/jinja/lexer.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "core/error.h"
#include "model/jinja/characters.h"
#include "model/unicode.h"

namespace voronoi::model::jinja {
namespace {

using namespace std::string_view_literals;

constexpr std::array kSigns{"//"sv, "**"sv, "=="sv, "!="sv, ">="sv, "<="sv, "+"sv, "-"sv, "/"sv,
                            "*"sv,  "%"sv,  "~"sv,  "["sv,  "]"sv,  "("sv,  ")"sv, "{"sv, "}"sv,
                            ">"sv,  "<"sv,  "="sv,  "."sv,  ":"sv,  "|"sv,  ","sv, ";"sv};
constexpr std::string_view kBlanks = " \t\r\n\f\v";

bool is_digit(char c) { return c >= '0' && c <= '9'; }
bool begins_name(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' || static_cast<unsigned char>(c) >= 0x80;
}

/// Lines end in line feeds, and the last one in nothing.
std::string with_line_feeds(std::string_view source) {
  std::string out;
  out.reserve(source.size());
  for (std::size_t i = 0; i < source.size(); ++i) {
    if (source[i] != '\r')
      out += source[i];
    else if (i + 1 == source.size() || source[i + 1] != '\n')
      out += '\n';
  }
  if (out.ends_with('\n')) out.pop_back();
  return out;
}

class Lexer {
 public:
  Lexer(std::string_view source, const std::string& file) : source_(with_line_feeds(source)), file_(file) {}

  std::vector<Token> run() {
    while (at_ < source_.size()) {
      const std::size_t tag = find_tag(at_);
      if (tag == std::string::npos) {
        add(Kind::data, source_.substr(at_));
        break;
      }
      if (const std::size_t raw = raw_end(tag, "raw"); raw != 0) {
        take_data(tag, source_[tag + 2], true);
        move_to(raw);
        take_raw();
      } else if (source_[tag + 1] == '#') {
        take_data(tag, sign_of(tag), true);
        move_to(tag + 2);
        take_comment();
      } else {
        const bool prints = source_[tag + 1] == '{';
        take_data(tag, sign_of(tag), !prints);
        const char sign = sign_of(tag);
        add(prints ? Kind::print : Kind::block, "");
        move_to(tag + 2 + (sign == '-' || sign == '+' ? 1 : 0));
        take_tag(prints);
      }
      line_starting_ = at_ > 0 && source_[at_ - 1] == '\n';
    }
    add(Kind::end, "");
    return std::move(tokens_);
  }

 private:
  using Kind = Token::Kind;

  void add(Kind kind, std::string text) {
    if (kind == Kind::data && text.empty()) return;
    tokens_.push_back({kind, std::move(text), line_});
  }
  void move_to(std::size_t to) {
    line_ += std::count(source_.begin() + static_cast<std::ptrdiff_t>(at_),
                        source_.begin() + static_cast<std::ptrdiff_t>(to), '\n');
    at_ = to;
  }
  char at(std::size_t place) const { return place < source_.size() ? source_[place] : '\0'; }
  bool begins(std::size_t place, std::string_view what) const {
    return source_.compare(std::min(place, source_.size()), what.size(), what) == 0;
  }
  std::size_t find_tag(std::size_t from) const {
    for (std::size_t place = source_.find('{', from); place != std::string::npos; place = source_.find('{', place + 1))
      if (const char c = at(place + 1); c == '{' || c == '%' || c == '#') return place;
    return std::string::npos;
  }
  char sign_of(std::size_t tag) const { return at(tag + 2); }
  std::size_t skip_blanks(std::size_t place) const {
    return std::min(source_.find_first_not_of(kBlanks, place), source_.size());
  }

  /// The text up to a tag, without what the tag takes of it: "-" all white space before it, a tag that prints nothing
  /// the blanks of its line.
  void take_data(std::size_t tag, char sign, bool takes_blanks) {
    std::string_view text(source_);
    text = text.substr(at_, tag - at_);
    if (sign == '-') {
      text = stripped(text, "", false, true);
    } else if (sign != '+' && takes_blanks) {
      const std::size_t feed = text.rfind('\n');
      const std::size_t line = feed == std::string_view::npos ? 0 : feed + 1;
      if ((line > 0 || line_starting_) && stripped(text.substr(line), "", true, false).empty())
        text = text.substr(0, line);
    }
    add(Kind::data, std::string(text));
    move_to(tag);
  }

  /// Behind "%}" or what stands for it at `place`, or 0 where that is none.
  std::size_t tag_end(std::size_t place, std::string_view end, bool trims) const {
    if (begins(place, "-") && begins(place + 1, end)) return skip_blanks(place + 1 + end.size());
    if (trims && begins(place, "+") && begins(place + 1, end)) return place + 1 + end.size();
    if (!begins(place, end)) return 0;
    place += end.size();
    return trims && at(place) == '\n' ? place + 1 : place;
  }
  /// Behind the tag {% word %}, or 0 where there is another.
  std::size_t raw_end(std::size_t tag, std::string_view word) const {
    if (at(tag + 1) != '%') return 0;
    std::size_t place = tag + 2;
    if (at(place) == '-' || at(place) == '+') ++place;
    place = skip_blanks(place);
    if (!begins(place, word)) return 0;
    place = skip_blanks(place + word.size());
    if (word == "endraw") return tag_end(place, "%}", true);
    if (begins(place, "-%}")) return skip_blanks(place + 3);
    return begins(place, "%}") ? place + 2 : 0;
  }

  void take_raw() {
    line_starting_ = at_ > 0 && source_[at_ - 1] == '\n';
    for (std::size_t tag = source_.find("{%", at_); tag != std::string::npos; tag = source_.find("{%", tag + 1))
      if (const std::size_t end = raw_end(tag, "endraw"); end != 0) {
        take_data(tag, source_[tag + 2], true);
        return move_to(end);
      }
    fail_at(file_, line_, "{% raw %} has no {% endraw %}");
  }

  void take_comment() {
    const std::size_t end = source_.find("#}", at_);
    if (end == std::string::npos) fail_at(file_, line_, "a comment has no end: #}");
    const std::size_t signed_end = end > at_ && (at(end - 1) == '-' || at(end - 1) == '+') ? end - 1 : end;
    move_to(tag_end(signed_end, "#}", true));
  }

  void take_tag(bool prints) {
    std::string open;  // brackets, the innermost last
    const std::int64_t begun = line_;
    for (;;) {
      move_to(skip_blanks(at_));
      if (at_ == source_.size()) fail_at(file_, begun, prints ? "{{ has no end: }}" : "{% has no end: %}");
      if (open.empty())
        if (const std::size_t end = tag_end(at_, prints ? "}}" : "%}", !prints); end != 0) {
          add(prints ? Kind::print_end : Kind::block_end, "");
          return move_to(end);
        }
      const char c = source_[at_];
      if (is_digit(c))
        take_number();
      else if (begins_name(c))
        take_name();
      else if (c == '\'' || c == '"')
        take_string(c);
      else
        take_sign(open);
    }
  }

  void take_name() {
    std::size_t end = at_;
    while (begins_name(at(end)) || is_digit(at(end))) ++end;
    add(Kind::name, source_.substr(at_, end - at_));
    move_to(end);
  }

  void take_number() {
    std::size_t end = at_;
    const auto digits = [&] {
      while (is_digit(at(end)) || (at(end) == '_' && is_digit(at(end + 1)))) ++end;
    };
    digits();
    bool whole = true;
    if (at(end) == '.' && is_digit(at(end + 1))) {
      whole = false;
      ++end;
      digits();
    }
    std::size_t exponent = end + 1;
    if (at(exponent) == '+' || at(exponent) == '-') ++exponent;
    if ((at(end) == 'e' || at(end) == 'E') && is_digit(at(exponent))) {
      whole = false;
      end = exponent;
      digits();
    }
    if (begins_name(at(end))) fail_at(file_, line_, "a number that is not supported");
    std::string text = source_.substr(at_, end - at_);
    std::erase(text, '_');
    add(whole ? Kind::integer : Kind::number, std::move(text));
    move_to(end);
  }

  void take_string(char quote) {
    std::string text;
    std::size_t place = at_ + 1;
    for (; at(place) != quote; ++place) {
      if (place >= source_.size()) fail_at(file_, line_, "a string has no end");
      if (source_[place] != '\\') {
        text += source_[place];
        continue;
      }
      if (++place >= source_.size()) fail_at(file_, line_, "a string has no end");
      place = take_escape(place, text);
    }
    add(Kind::string, std::move(text));
    move_to(place + 1);
  }

  /// The escape whose letter stands at `place`; returns its last place.
  std::size_t take_escape(std::size_t place, std::string& text) {
    constexpr std::string_view kLetters = "\\'\"nrtabfv", kMeant = "\\'\"\n\r\t\a\b\f\v";
    const char c = source_[place];
    if (const std::size_t known = kLetters.find(c); known != std::string_view::npos) {
      text += kMeant[known];
      return place;
    }
    if (c == '\n') return place;
    const std::size_t n = c == 'x' ? 2 : c == 'u' ? 4 : c == 'U' ? 8 : 0;
    if (n == 0 && c >= '0' && c <= '7') return take_octal(place, text);
    if (n == 0) {
      text += '\\';
      text += c;
      return place;
    }
    char32_t point = 0;
    for (std::size_t i = 1; i <= n; ++i) {
      const char digit = at(place + i);
      const std::size_t value =
          "0123456789abcdef"sv.find(digit >= 'A' && digit <= 'F' ? static_cast<char>(digit + 32) : digit);
      if (value >= 16 || point > 0x10FFFF) fail_at(file_, line_, "a string has an escape of too few digits");
      point = point * 16 + static_cast<char32_t>(value);
    }
    if (point > 0x10FFFF || (point >= 0xD800 && point < 0xE000))
      fail_at(file_, line_, "a string has an escape that is no character");
    text += utf8_encode(point);
    return place + n;
  }

  std::size_t take_octal(std::size_t place, std::string& text) {
    char32_t point = 0;
    std::size_t i = 0;
    for (; i < 3 && at(place + i) >= '0' && at(place + i) <= '7'; ++i)
      point = point * 8 + static_cast<char32_t>(at(place + i) - '0');
    text += utf8_encode(point);
    return place + i - 1;
  }

  void take_sign(std::string& open) {
    const auto* sign =
        std::find_if(kSigns.begin(), kSigns.end(), [&](std::string_view known) { return begins(at_, known); });
    if (sign == kSigns.end()) fail_at(file_, line_, fmt::format("a tag has the character '{}'", source_[at_]));
    constexpr std::string_view kOpening = "([{", kClosing = ")]}";
    if (kOpening.find(sign->front()) != std::string_view::npos) open += sign->front();
    if (const std::size_t closes = kClosing.find(sign->front()); closes != std::string_view::npos) {
      if (open.empty() || open.back() != kOpening[closes])
        fail_at(file_, line_, fmt::format("'{}' closes nothing that is open", *sign));
      open.pop_back();
    }
    add(Kind::sign, std::string(*sign));
    move_to(at_ + sign->size());
  }

  const std::string source_;
  const std::string& file_;
  std::size_t at_ = 0;
  std::int64_t line_ = 1;
  bool line_starting_ = true;  // what was taken last ended in a line feed
  std::vector<Token> tokens_;
};

}  // namespace

void fail_at(const std::string& file, std::int64_t line, const std::string& message) {
  throw core::FormatError(file, fmt::format("chat template, line {}: {}", line, message));
}

std::vector<Token> lex(std::string_view source, const std::string& file) {
  if (source.size() > kMostTemplateBytes)
    throw core::FormatError(
        file, fmt::format("chat template: has {} bytes, more than {}", source.size(), kMostTemplateBytes));
  return Lexer(source, file).run();
}

}  // namespace voronoi::model::jinja
