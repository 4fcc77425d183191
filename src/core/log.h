// The only place that prints to stderr: log lines with the rank as prefix, and one progress line.
#pragma once

#include <fmt/format.h>

#include <filesystem>
#include <string>
#include <string_view>

namespace voronoi::core {

enum class LogLevel { debug, info, warning, error };
/// text: lines for people. json: each line one object of `time` (ISO 8601, UTC), `level`, `rank` and `message`.
enum class LogFormat { text, json };

/// rank < 0: no prefix (one process). On ranks > 0 only warnings and errors reach stderr; everything goes to the file.
void configure_log(int rank, LogLevel level);
/// Of stderr and of the file alike.
void set_log_format(LogFormat format);
/// Also append to a file (one a rank) from now on. A log is auxiliary: a file that cannot be opened or written is
/// warned of once, and the lines go to stderr alone.
void log_to_file(const std::filesystem::path& path);
void log_line(LogLevel level, std::string_view message);

template <class... Args>
void log_info(fmt::format_string<Args...> format, Args&&... args) {
  log_line(LogLevel::info, fmt::format(format, std::forward<Args>(args)...));
}
template <class... Args>
void log_debug(fmt::format_string<Args...> format, Args&&... args) {
  log_line(LogLevel::debug, fmt::format(format, std::forward<Args>(args)...));
}
template <class... Args>
void log_warning(fmt::format_string<Args...> format, Args&&... args) {
  log_line(LogLevel::warning, fmt::format(format, std::forward<Args>(args)...));
}
template <class... Args>
void log_error(fmt::format_string<Args...> format, Args&&... args) {
  log_line(LogLevel::error, fmt::format(format, std::forward<Args>(args)...));
}

/// A warning about a file that all ranks open, some of them often: on stderr once, of rank 0.
void warn_once(const std::string& message);

/// Progress: on a terminal one line that is redrawn, otherwise (and as JSON) a line at most every ten seconds (and the
/// last one). Call from rank 0 only. `done` marks the end of the activity.
void show_progress(std::string_view text, bool done = false);

/// "1 h 02 min", "3 min 05 s", "4.2 s"; "unknown" when it is not finite.
std::string format_duration(double seconds);
/// "1.5 GiB".
std::string format_bytes(double bytes);

}  // namespace voronoi::core
