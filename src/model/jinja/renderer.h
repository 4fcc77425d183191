// Runs a parsed template.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "model/jinja/limits.h"
#include "model/jinja/syntax.h"
#include "model/jinja/value.h"

namespace voronoi::model::jinja {

/// Most bytes of a rendering.
inline constexpr std::size_t kMostRenderedBytes = std::size_t{1} << 26;

/// What raise_exception() of a template was given: it refuses what it is to render.
class Refusal {
 public:
  explicit Refusal(std::string message) : message_(std::move(message)) {}
  const std::string& message() const { return message_; }

 private:
  std::string message_;
};

/// The template's text with these variables; strftime_now() tells always the same day, 26 July 2024. Throws Refusal,
/// and FormatError naming `file` and line for what cannot be evaluated or takes more than a rendering may.
std::string render(const Syntax& syntax, const std::string& file,
                   const std::vector<std::pair<std::string, Value>>& variables, const Limits& limits = {});

}  // namespace voronoi::model::jinja
