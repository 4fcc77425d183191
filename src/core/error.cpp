#include "core/error.h"

namespace voronoi::core {
namespace {

std::string joined(const std::vector<std::string>& problems) {
  std::string text;
  for (const std::string& problem : problems) {
    if (!text.empty()) text += '\n';
    text += problem;
  }
  return text;
}

}  // namespace

ConfigError::ConfigError(const std::vector<std::string>& problems) : Error(ExitCode::usage, joined(problems)) {}

void require_failed(const char* condition, const char* file, int line, const std::string& message) {
  throw InternalError(std::string(file) + ":" + std::to_string(line) + ": " + condition +
                      (message.empty() ? "" : " (" + message + ")"));
}

}  // namespace voronoi::core
