#include "jobs/batch_job.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <charconv>
#include <cstdlib>
#include <cstring>
#include <sstream>
#include <system_error>

#include "core/error.h"
#include "core/option.h"

extern char** environ;

namespace voronoi::jobs {
namespace {

namespace fs = std::filesystem;

/// A word of a #SBATCH line: sbatch takes quotes and backslashes there much as a shell does, but knows no other rule.
std::string quote_for_sbatch(const std::string& word) {
  if (word.find('\n') != std::string::npos)
    throw core::ConfigError("submit: an option of sbatch holds a line break, which its scripts cannot: '" + word + "'");
  static constexpr std::string_view kPlain =
      "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_=+:,./@%[]*&|!~^";
  if (!word.empty() && word.find_first_not_of(kPlain) == std::string::npos) return word;
  std::string quoted = "\"";
  for (const char c : word) {
    if (c == '"' || c == '\\') quoted += '\\';
    quoted += c;
  }
  return quoted + "\"";
}

std::string environment(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

}  // namespace

std::optional<std::string> SbatchWords::value(std::string_view name, char letter) const {
  std::optional<std::string> found;
  for (std::size_t i = 0; i < words_.size(); ++i) {
    const std::string& word = words_[i];
    const std::string next = i + 1 < words_.size() ? words_[i + 1] : "";
    if (word.starts_with("--")) {
      const std::size_t equals = word.find('=');
      if (std::string_view(word).substr(2, equals == std::string::npos ? equals : equals - 2) != name) continue;
      found = equals == std::string::npos ? next : word.substr(equals + 1);
    } else if (letter != '\0' && word.size() >= 2 && word[0] == '-' && word[1] == letter) {
      found = word.size() == 2 ? next : word.substr(2);
    }
  }
  return found;
}

int SbatchWords::number(std::string_view name, char letter) const {
  std::string text = value(name, letter).value_or("");
  text = text.substr(text.rfind(':') + 1);
  int number = 0;
  std::from_chars(text.data(), text.data() + text.size(), number);
  return number > 0 ? number : 0;
}

fs::path program_file() {
  std::error_code error;
  fs::path file = fs::read_symlink("/proc/self/exe", error);
  return error ? fs::path() : file;
}

BatchScripts find_batch_scripts() {
  std::vector<fs::path> roots;
  if (const std::string told = environment("VORONOI_ROOT"); !told.empty()) {
    roots = {fs::absolute(told).lexically_normal()};
  } else if (const fs::path program = program_file(); !program.empty()) {
    const fs::path folder = program.parent_path();  // PREFIX/bin, or build/PRESET of the project
    roots = {folder.parent_path(), folder.parent_path().parent_path()};
  }
  std::vector<std::string> looked;
  for (const fs::path& root : roots)
    for (const fs::path& folder : {root / "share/voronoi/slurm", root / "slurm"}) {
      if (std::error_code error; fs::is_regular_file(folder / "quantize.sbatch", error)) return {root, folder};
      looked.push_back(folder.string());
    }
  throw core::ConfigError(fmt::format(
      "submit: no quantize.sbatch in {}; set VORONOI_ROOT to the project or to the prefix of an installation",
      fmt::join(looked, ", ")));
}

std::string batch_script(const std::string& original, const BatchJob& job) {
  std::string directives, body;
  std::istringstream lines(original);
  for (std::string line; std::getline(lines, line);) {
    if (line.starts_with("#SBATCH"))
      directives += line + "\n";
    else if (!body.empty() || !line.starts_with('#'))
      body += line + "\n";
  }
  std::string script = "#!/usr/bin/env bash\n# " + job.note + "\n" + directives;
  for (const std::string& option : job.planned) script += "#SBATCH " + quote_for_sbatch(option) + "\n";
  if (!job.given.empty()) {
    script += "#SBATCH";
    for (const std::string& word : job.given) script += " " + quote_for_sbatch(word);
    script += "\n";
  }
  script += "export VORONOI_ROOT=" + core::quote_for_shell(job.root) + "\n";
  if (!job.program.empty()) script += "export VORONOI=" + core::quote_for_shell(job.program) + "\n";
  script += "set --";
  for (const std::string& word : job.words)
    script += (word.starts_with("--") ? " \\\n  " : " ") + core::quote_for_shell(word);
  return script + "\n" + body;
}

std::string submit_script(const fs::path& script) {
  std::array<int, 2> ends{};
  if (::pipe2(ends.data(), O_CLOEXEC) != 0) throw core::Error(core::ExitCode::system, "submit: no pipe for sbatch");
  posix_spawn_file_actions_t actions;
  ::posix_spawn_file_actions_init(&actions);
  ::posix_spawn_file_actions_adddup2(&actions, ends[1], STDOUT_FILENO);
  std::string program = "sbatch", parsable = "--parsable", file = script.string();
  std::array<char*, 4> words{program.data(), parsable.data(), file.data(), nullptr};
  pid_t child = 0;
  const int error = ::posix_spawnp(&child, "sbatch", &actions, nullptr, words.data(), environ);
  ::posix_spawn_file_actions_destroy(&actions);
  ::close(ends[1]);
  if (error != 0) {
    ::close(ends[0]);
    throw core::Error(
        core::ExitCode::system,
        fmt::format("submit: cannot start sbatch: {}; submit where Slurm's commands are on PATH: sbatch {}",
                    std::strerror(error), core::quote_for_shell(file)));
  }
  std::string said;
  std::array<char, 512> piece{};
  for (ssize_t n = 0; (n = ::read(ends[0], piece.data(), piece.size())) > 0 || (n < 0 && errno == EINTR);)
    if (n > 0) said.append(piece.data(), static_cast<std::size_t>(n));
  ::close(ends[0]);
  int status = 0;
  while (::waitpid(child, &status, 0) < 0 && errno == EINTR) continue;
  // "JOB", or "JOB;CLUSTER"
  const std::string job = said.substr(0, said.find_first_of(";\n"));
  if (!WIFEXITED(status) || WEXITSTATUS(status) != 0 || job.empty())
    throw core::Error(core::ExitCode::system,
                      fmt::format("submit: sbatch refused the job (its words stand above); mend {} or the options and "
                                  "submit again",
                                  file));
  return job;
}

}  // namespace voronoi::jobs
