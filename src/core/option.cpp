#include "core/option.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cctype>
#include <charconv>
#include <string_view>

namespace voronoi::core {
namespace {

template <class T>
bool parse_number(const std::string& text, T& value) {
  const char* end = text.data() + text.size();
  const auto [position, error] = std::from_chars(text.data(), end, value);
  return error == std::errc() && position == end;
}

template <class T>
OptionSpec make_integer(std::string name, std::string help, T& target, T least, T most) {
  help += fmt::format(" [{}]", target);
  return {std::move(name), "N", std::move(help),
          [&target, least, most](const std::string& text) -> std::string {
            T value{};
            if (!parse_number(text, value) || value < least || value > most)
              return fmt::format("must be an integer from {} to {}, not '{}'", least, most, text);
            target = value;
            return {};
          },
          false};
}

}  // namespace

OptionSpec text_option(std::string name, std::string argument, std::string help, std::string& target) {
  return {std::move(name), std::move(argument), std::move(help),
          [&target](const std::string& text) -> std::string {
            if (text.empty()) return "must not be empty";
            target = text;
            return {};
          },
          false};
}

OptionSpec list_option(std::string name, std::string argument, std::string help, std::vector<std::string>& target) {
  return {std::move(name), std::move(argument), std::move(help) + " (may be given several times)",
          [&target](const std::string& text) -> std::string {
            if (text.empty()) return "must not be empty";
            target.push_back(text);
            return {};
          },
          true};
}

OptionSpec integer_option(std::string name, std::string help, std::int64_t& target, std::int64_t least,
                          std::int64_t most) {
  return make_integer(std::move(name), std::move(help), target, least, most);
}

OptionSpec integer_option(std::string name, std::string help, int& target, int least, int most) {
  return make_integer(std::move(name), std::move(help), target, least, most);
}

OptionSpec number_option(std::string name, std::string help, double& target, double least, double most) {
  help += fmt::format(" [{}]", target);
  return {std::move(name), "X", std::move(help),
          [&target, least, most](const std::string& text) -> std::string {
            double value{};
            if (!parse_number(text, value) || !(value >= least && value <= most))
              return fmt::format("must be a number from {} to {}, not '{}'", least, most, text);
            target = value;
            return {};
          },
          false};
}

OptionSpec choice_option(std::string name, std::string help, std::string& target, std::vector<std::string> choices) {
  help += fmt::format(": {} [{}]", fmt::join(choices, ", "), target);
  return {std::move(name), "NAME", std::move(help),
          [&target, choices = std::move(choices)](const std::string& text) -> std::string {
            if (std::find(choices.begin(), choices.end(), text) == choices.end())
              return fmt::format("must be one of {}, not '{}'", fmt::join(choices, ", "), text);
            target = text;
            return {};
          },
          false};
}

OptionSpec switch_option(std::string name, std::string help, bool& target) {
  return {std::move(name), "", std::move(help),
          [&target](const std::string& text) -> std::string {
            if (text != "true" && text != "false") return "is a switch: true or false, not '" + text + "'";
            target = text == "true";
            return {};
          },
          false};
}

OptionSpec as_path(OptionSpec option) {
  option.path = true;
  return option;
}

std::string quote_for_shell(const std::string& text) {
  const auto is_plain = [](unsigned char c) {
    return std::isalnum(c) != 0 || std::string_view("/._-+=:,@%").find(static_cast<char>(c)) != std::string_view::npos;
  };
  if (!text.empty() && std::all_of(text.begin(), text.end(), is_plain)) return text;
  std::string quoted = "'";
  for (const char c : text) quoted += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return quoted + "'";
}

}  // namespace voronoi::core
