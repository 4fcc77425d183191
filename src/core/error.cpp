#include "core/error.h"

#include "core/printable.h"

namespace voronoi::core {
namespace {

constexpr std::size_t kMaxMessageBytes = 2000;

std::string joined(const std::vector<std::string>& problems) {
  std::string text;
  for (const std::string& problem : problems) {
    if (!text.empty()) text += '\n';
    text += problem;
  }
  return text;
}

}  // namespace

FormatError::FormatError(std::string_view file, std::string_view message)
    : Error(ExitCode::data, std::string(file) + ": " + printable(message, kMaxMessageBytes)) {}
FormatError::FormatError(std::string_view file, std::uint64_t offset, std::string_view message)
    : FormatError(file, "byte " + std::to_string(offset) + ": " + std::string(message)) {}

ConfigError::ConfigError(const std::vector<std::string>& problems) : Error(ExitCode::usage, joined(problems)) {}

void require_failed(const char* condition, const char* file, int line, const std::string& message) {
  throw InternalError(std::string(file) + ":" + std::to_string(line) + ": " + condition +
                      (message.empty() ? "" : " (" + message + ")"));
}

}  // namespace voronoi::core
