// The right of one start of a run to change files of the run directory, and its loss.
#pragma once

#include <cstddef>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "core/error.h"
#include "store/run_directory.h"

namespace voronoi::store {

/// A later start has taken the run over: nothing of this one may be published any more, and nothing was.
class Superseded : public core::StoreError {
 public:
  explicit Superseded(const RunPaths& paths);
};

/// One start of a run. All its files are made in a directory of its own, staging/start-<host>-<pid>-<random>, and
/// published by a rename out of it; files are taken away by a rename into it. A later start removes that directory
/// before it reads anything. From then on such a rename cannot succeed, so there is no moment between a check and the
/// rename: a process on a node that was cut off, or one that was stopped for hours, is fenced off without clocks and
/// leases, by any file system that keeps the rules of rename and rmdir.
class Start {
 public:
  /// The process that holds the run's lock: makes the staging directory, then removes those of all earlier starts.
  /// Throws StoreError.
  static std::unique_ptr<Start> begin(const RunPaths& paths);
  /// Another rank of the same start. `id`: of the one that began.
  Start(RunPaths paths, std::string id, int rank);
  /// The one that began removes the staging directory.
  ~Start();
  Start(const Start&) = delete;
  Start& operator=(const Start&) = delete;

  const RunPaths& paths() const { return paths_; }
  const std::string& id() const { return id_; }
  /// Where this rank makes the file or directory that will be published as `path`.
  std::filesystem::path temporary(const std::filesystem::path& path) const;

  /// Written, synced, renamed to `path`, directory synced. Throws Superseded, StoreError.
  void publish(const std::filesystem::path& path, std::span<const std::byte> bytes) const;
  void publish(const std::filesystem::path& path, std::string_view text) const;
  /// Renames a file or directory of the run that was made under another name, by way of the staging directory. Throws
  /// Superseded, StoreError.
  void rename(const std::filesystem::path& from, const std::filesystem::path& to) const;
  /// Removes a file or directory if it is there. Throws Superseded, StoreError.
  void remove(const std::filesystem::path& path) const;
  /// Moves a damaged file to quarantine/<name>.<n> and returns the new path. Throws Superseded, StoreError.
  std::filesystem::path quarantine(const std::filesystem::path& path) const;

  /// Throws Superseded when this start has been superseded: tells the reason of an error.
  void require_current() const;

 private:
  std::filesystem::path take(const std::filesystem::path& path) const;

  RunPaths paths_;
  std::string id_;
  std::filesystem::path directory_;
  int rank_;
  bool began_ = false;
};

}  // namespace voronoi::store
