#include "store/start.h"

#include <dirent.h>
#include <fmt/format.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstring>
#include <exception>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include "core/file.h"
#include "core/whereabouts.h"

namespace voronoi::store {
namespace {

namespace fs = std::filesystem;
using core::StoreError;

constexpr std::string_view kPrefix = "start-", kRevokedPrefix = "revoked-";

std::vector<fs::path> list(const fs::path& directory) {
  std::error_code error;
  std::vector<fs::path> paths;
  auto entry = fs::directory_iterator(directory, error);
  for (; !error && entry != fs::directory_iterator(); entry.increment(error)) paths.push_back(entry->path());
  if (error && error.value() != ENOENT) throw core::system_error(directory, "list", error.value());
  return paths;
}

/// Its owner may be alive and go on making files in it: only a successful rmdir ends that. Network file systems keep a
/// name for a removed file as long as a process of this host has it open, hence the patience.
/// It is renamed before it is emptied: its owner is to miss the directory, not a file in it.
void revoke(const fs::path& named) {
  constexpr int kTries = 200;
  fs::path directory = named;
  if (named.filename().string().starts_with(kPrefix)) {
    directory = named.parent_path() / (std::string(kRevokedPrefix) + named.filename().string());
    if (::rename(named.c_str(), directory.c_str()) != 0 && errno != ENOENT)
      throw core::system_error(named, "rename", errno);
  }
  for (int tries = 0;; ++tries) {
    std::error_code ignored;
    for (const fs::path& entry : list(directory)) fs::remove_all(entry, ignored);
    if (::rmdir(directory.c_str()) == 0 || errno == ENOENT) return;
    if ((errno != ENOTEMPTY && errno != EEXIST && errno != EBUSY) || tries == kTries)
      throw StoreError(
          fmt::format("{}: what an earlier start left cannot be removed: {}; its name tells host and process, end it "
                      "if it still runs and run the same command again",
                      directory.string(), std::strerror(errno)));
    if (tries > 10) std::this_thread::sleep_for(std::chrono::milliseconds(50));
  }
}

}  // namespace

Superseded::Superseded(const RunPaths& paths)
    : StoreError(paths.root.string() +
                 ": superseded: another start has taken this run over; what this one had not published is dropped") {}

std::unique_ptr<Start> Start::begin(const RunPaths& paths) {
  std::string directory =
      (paths.staging() / fmt::format("{}{}-{}-XXXXXX", kPrefix, core::host_name(), ::getpid())).string();
  if (::mkdtemp(directory.data()) == nullptr) throw core::system_error(directory, "create", errno);
  if (::chmod(directory.c_str(), 0755) != 0) throw core::system_error(directory, "open to other users", errno);
  auto start = std::make_unique<Start>(paths, fs::path(directory).filename().string(), 0);
  start->began_ = true;
  for (const fs::path& other : list(paths.staging()))
    if (const std::string name = other.filename().string();
        other != start->directory_ && (name.starts_with(kPrefix) || name.starts_with(kRevokedPrefix)))
      revoke(other);
  core::sync_directory(paths.staging());
  return start;
}

Start::Start(RunPaths paths, std::string id, int rank)
    : paths_(std::move(paths)), id_(std::move(id)), directory_(paths_.staging() / id_), rank_(rank) {}

Start::~Start() {
  // What a rank that died had begun stays for the next start to remove. On the way out of an error the directory stays
  // too: to the other ranks, which may still publish, its loss would mean that another start has taken over.
  if (began_ && std::uncaught_exceptions() == 0) ::rmdir(directory_.c_str());
}

fs::path Start::temporary(const fs::path& path) const {
  return directory_ / fmt::format("{}.{}", path.filename().string(), rank_);
}

void Start::publish(const fs::path& path, std::span<const std::byte> bytes) const {
  try {
    core::publish_file(path, bytes, temporary(path));
  } catch (const StoreError&) {
    require_current();
    throw;
  }
}

void Start::publish(const fs::path& path, std::string_view text) const {
  publish(path, std::as_bytes(std::span(text)));
}

/// Renames the file into the staging directory; an empty path when there is none.
fs::path Start::take(const fs::path& path) const {
  fs::path taken = temporary(path);
  if (::rename(path.c_str(), taken.c_str()) == 0) return taken;
  const int error = errno;
  require_current();
  if (error == ENOENT) return {};
  throw core::system_error(path, "take away", error);
}

void Start::rename(const fs::path& from, const fs::path& to) const {
  const fs::path taken = take(from);
  if (taken.empty()) throw core::system_error(from, "rename to " + to.string(), ENOENT);
  if (::rename(taken.c_str(), to.c_str()) != 0) {
    const int error = errno;
    require_current();
    throw core::system_error(from, "rename to " + to.string(), error);
  }
  core::sync_directory(to.parent_path());
}

void Start::remove(const fs::path& path) const {
  std::error_code ignored;
  if (const fs::path taken = take(path); !taken.empty()) fs::remove_all(taken, ignored);
}

fs::path Start::quarantine(const fs::path& path) const {
  const fs::path taken = take(path);
  if (taken.empty()) throw core::system_error(path, "set aside", ENOENT);
  for (int n = 1;; ++n) {
    fs::path target = paths_.quarantine() / fmt::format("{}.{}", path.filename().string(), n);
    std::error_code error;
    if (fs::exists(fs::symlink_status(target, error))) continue;
    if (::rename(taken.c_str(), target.c_str()) != 0)
      throw core::system_error(path, "move to " + target.string(), errno);
    core::sync_directory(paths_.quarantine());
    core::sync_directory(path.parent_path());
    return target;
  }
}

void Start::require_current() const {
  std::error_code error;
  const fs::file_type type = fs::symlink_status(directory_, error).type();
  // ESTALE: a network file system knows the directory by number, and the number is gone.
  if (type == fs::file_type::not_found || error.value() == ESTALE) throw Superseded(paths_);
}

}  // namespace voronoi::store
