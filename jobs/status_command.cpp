#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <functional>
#include <thread>

#include "core/error.h"
#include "core/option.h"
#include "core/output.h"
#include "jobs/commands.h"
#include "jobs/status_text.h"

namespace voronoi::jobs {
namespace {

constexpr std::chrono::seconds kBetween{2};

/// One look at what is watched.
struct Look {
  std::string text;  ///< all of it
  std::string line;  ///< the same in short, for a log
  bool running = false;
};

/// The text from the top of the terminal, cut to what it shows.
void draw(const std::string& text) {
  winsize size{};
  if (::ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) != 0) size = {};
  const std::size_t columns = size.ws_col > 0 ? size.ws_col : 80, rows = size.ws_row > 0 ? size.ws_row : 24;
  std::string screen = "\033[H\033[J";
  std::size_t n = 0;
  for (std::size_t begin = 0; begin < text.size() && n + 1 < rows; ++n) {
    const std::size_t end = std::min(text.find('\n', begin), text.size());
    screen += text.substr(begin, std::min(end - begin, columns - 1)) + "\n";
    begin = end + 1;
  }
  fmt::print("{}", screen);
}

/// Looks until nothing runs any longer: redrawn or, with `lines`, a line whenever there is something new. Ends with the
/// whole text.
void watch(const std::function<Look()>& look, bool lines) {
  std::string last;
  for (;;) {
    const Look now = look();
    if (!now.running) {
      fmt::print("{}{}", lines ? "" : "\033[H\033[J", now.text);
      core::flush_output();
      return;
    }
    if (!lines)
      draw(now.text);
    else if (now.line != last)
      fmt::print("{}", now.line);
    last = now.line;
    core::flush_output();
    std::this_thread::sleep_for(kBetween);
  }
}

Look look_at(const store::RunPaths& paths, bool json) {
  const core::Json status = collect_status(paths);
  const bool running = status.at("state") == "running";
  if (json) return {status.dump() + "\n", status.dump() + "\n", running};
  return {describe_status(status), running ? progress_line(status) : "", running};
}

Look look_at_all(const std::filesystem::path& directory, bool json) {
  std::vector<core::Json> all;
  for (const std::filesystem::path& run : runs_below(directory)) all.push_back(status_among_others(run));
  Look look;
  for (const core::Json& status : all) {
    look.running = look.running || status.at("state") == "running";
    if (json) look.text += status.dump(-1, ' ', false, core::Json::error_handler_t::replace) + "\n";
  }
  if (!json) look.text = status_table(all, directory);
  look.line = look.text;
  return look;
}

}  // namespace

int status_main(const comm::Communicator& world, const Arguments& arguments) {
  std::string run, all;
  bool json = false, again = false;
  CommandSpec command;
  command.name = "status";
  command.summary = "Progress of a run or of many, live or dead, from any shell.";
  command.usage = "voronoi status RUN|--all DIR [--watch] [--json]";
  command.positional = "run";
  command.options = {core::text_option("run", "DIR", "run directory", run),
                     core::as_path(core::text_option("all", "DIR", "a line for each run directory below DIR", all)),
                     core::switch_option("watch",
                                         "again every two seconds until nothing runs any longer: redrawn on a "
                                         "terminal, elsewhere a line whenever there is something new",
                                         again),
                     core::switch_option("json", "print JSON, an object a run", json)};
  command.examples = "  voronoi status runs/2bit --watch\n  voronoi status --all runs\n";
  if (parse_or_help(world, command, arguments, false)) return 0;
  if (run.empty() == all.empty())
    throw core::ConfigError("status: which run? give its directory, or --all and a directory of runs");
  const auto look = [&] { return all.empty() ? look_at(store::RunPaths{run}, json) : look_at_all(all, json); };
  if (again) {
    watch(look, json || ::isatty(STDOUT_FILENO) == 0);
    return 0;
  }
  fmt::print("{}", look().text);
  core::flush_output();
  return 0;
}

}  // namespace voronoi::jobs
