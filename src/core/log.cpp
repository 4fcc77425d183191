#include "core/log.h"

#include <spdlog/sinks/basic_file_sink.h>
#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <ctime>
#include <mutex>
#include <set>
#include <utility>

#include "core/error.h"
#include "core/json.h"

namespace voronoi::core {
namespace {

using Clock = std::chrono::steady_clock;

/// Process-wide: stderr is one.
struct Output {
  std::mutex mutex;
  std::shared_ptr<spdlog::logger> terminal;
  std::shared_ptr<spdlog::logger> file;
  LogLevel level = LogLevel::info;
  LogFormat format = LogFormat::text;
  int rank = -1;
  bool line_open = false;
  bool log_warned = false;
  std::set<std::string> warned;  ///< by warn_once()
  Clock::time_point last_plain{};
};

Output& output() {
  static Output instance;
  return instance;
}

spdlog::level::level_enum to_spdlog(LogLevel level) {
  switch (level) {
    case LogLevel::debug:
      return spdlog::level::debug;
    case LogLevel::info:
      return spdlog::level::info;
    case LogLevel::warning:
      return spdlog::level::warn;
    case LogLevel::error:
      return spdlog::level::err;
  }
  return spdlog::level::info;
}

spdlog::logger& terminal(Output& out) {
  if (!out.terminal) {
    out.terminal = std::make_shared<spdlog::logger>("terminal", std::make_shared<spdlog::sinks::stderr_sink_st>());
    out.terminal->set_pattern("%v");
    out.terminal->set_level(spdlog::level::debug);
    out.terminal->flush_on(spdlog::level::debug);
  }
  return *out.terminal;
}

const char* level_name(LogLevel level) {
  constexpr const char* kNames[] = {"debug", "info", "warning", "error"};
  return kNames[static_cast<int>(level)];
}

/// "2026-01-31T23:59:59.123Z"
std::string time_text() {
  timespec now{};
  ::clock_gettime(CLOCK_REALTIME, &now);
  std::tm parts{};
  ::gmtime_r(&now.tv_sec, &parts);
  char date[32];
  std::strftime(date, sizeof date, "%Y-%m-%dT%H:%M:%S", &parts);
  return fmt::format("{}.{:03}Z", date, now.tv_nsec / 1000000);
}

/// One line; bytes that are no UTF-8 are replaced, since a file name may hold any.
std::string json_line(const Output& out, LogLevel level, std::string_view message) {
  return Json{{"time", time_text()},
              {"level", level_name(level)},
              {"rank", std::max(out.rank, 0)},
              {"message", std::string(message)}}
      .dump(-1, ' ', false, Json::error_handler_t::replace);
}

std::string rank_prefix(const Output& out) { return out.rank > 0 ? fmt::format("rank {}: ", out.rank) : ""; }

void close_progress_line(Output& out) {
  if (std::exchange(out.line_open, false)) std::fputs("\r\033[K", stderr);
}

/// To stderr, by a single write: the lines of many ranks in one file stay whole.
void print_line(Output& out, LogLevel level, std::string_view message) {
  close_progress_line(out);
  if (out.format == LogFormat::json) {
    terminal(out).log(to_spdlog(level), json_line(out, level, message));
    return;
  }
  std::string prefix = rank_prefix(out);
  if (level == LogLevel::warning) prefix += "warning: ";
  if (level == LogLevel::error) prefix += "error: ";
  terminal(out).log(to_spdlog(level), prefix + std::string(message));
}

void warn_of_log(Output& out, const std::string& problem) {
  if (std::exchange(out.log_warned, true)) return;
  print_line(out, LogLevel::warning, fmt::format("no log file: {}; the work goes on", problem));
}

void set_pattern(Output& out) {
  if (out.file) out.file->set_pattern(out.format == LogFormat::json ? "%v" : "%Y-%m-%dT%H:%M:%S.%e %^%l%$ %v");
}

}  // namespace

void configure_log(int rank, LogLevel level) {
  Output& out = output();
  const std::lock_guard lock(out.mutex);
  out.rank = rank;
  out.level = level;
}

void set_log_format(LogFormat format) {
  Output& out = output();
  const std::lock_guard lock(out.mutex);
  out.format = format;
  set_pattern(out);
}

void log_to_file(const std::filesystem::path& path) {
  Output& out = output();
  const std::lock_guard lock(out.mutex);
  out.log_warned = false;
  try {
    out.file =
        std::make_shared<spdlog::logger>("file", std::make_shared<spdlog::sinks::basic_file_sink_st>(path.string()));
  } catch (const spdlog::spdlog_ex& error) {
    warn_of_log(out, error.what());
    return;
  }
  // Called by the logger inside log_line(), under the lock.
  out.file->set_error_handler([&out](const std::string& problem) { warn_of_log(out, problem); });
  set_pattern(out);
  out.file->set_level(spdlog::level::debug);
  out.file->flush_on(spdlog::level::debug);
}

void log_line(LogLevel level, std::string_view message) {
  Output& out = output();
  const std::lock_guard lock(out.mutex);
  if (out.file)
    out.file->log(to_spdlog(level),
                  out.format == LogFormat::json ? json_line(out, level, message) : std::string(message));
  if (level < out.level || (out.rank > 0 && level < LogLevel::warning)) return;
  print_line(out, level, message);
}

void warn_once(const std::string& message) {
  LogLevel level = LogLevel::warning;
  {
    Output& out = output();
    const std::lock_guard lock(out.mutex);
    constexpr std::size_t kMostRemembered = 1000;
    if (out.warned.size() == kMostRemembered) out.warned.clear();
    if (!out.warned.insert(message).second) return;
    if (out.rank > 0) level = LogLevel::info;
  }
  log_line(level, message);
}

void show_progress(std::string_view text, bool done) {
  Output& out = output();
  const std::lock_guard lock(out.mutex);
  if (out.level > LogLevel::info) return;
  if (out.format == LogFormat::text && ::isatty(STDERR_FILENO) != 0) {
    fmt::print(stderr, "\r\033[K{}{}", text, done ? "\n" : "");
    std::fflush(stderr);
    out.line_open = !done;
    return;
  }
  const Clock::time_point now = Clock::now();
  if (!done && now - out.last_plain < std::chrono::seconds(10)) return;
  out.last_plain = now;
  print_line(out, LogLevel::info, text);
}

std::string format_duration(double seconds) {
  if (!(std::abs(seconds) < 1e15)) return "unknown";
  if (seconds < 59.95) return fmt::format("{:.1f} s", seconds);
  const auto whole = static_cast<long>(seconds + 0.5);
  if (whole < 3600) return fmt::format("{} min {:02} s", whole / 60, whole % 60);
  return fmt::format("{} h {:02} min", whole / 3600, whole % 3600 / 60);
}

std::string format_bytes(double bytes) {
  constexpr const char* kUnits[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB"};
  int unit = 0;
  // The bound is where one decimal place would show 1024.0.
  while (bytes >= (unit == 0 ? 1024.0 : 1023.95) && unit < 5) {
    bytes /= 1024;
    ++unit;
  }
  return unit == 0 ? fmt::format("{:.0f} B", bytes) : fmt::format("{:.1f} {}", bytes, kUnits[unit]);
}

}  // namespace voronoi::core
