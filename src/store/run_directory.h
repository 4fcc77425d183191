// The run directory's layout, lock and identity.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>

#include "core/json.h"

namespace voronoi::store {

/// Paths only; creates nothing.
struct RunPaths {
  std::filesystem::path root;
  std::filesystem::path identity() const { return root / "run.json"; }
  std::filesystem::path journal() const { return root / "journal.log"; }
  std::filesystem::path lock() const { return root / "lock.json"; }
  std::filesystem::path status() const { return root / "status.json"; }
  std::filesystem::path attempt() const { return root / "attempt"; }
  std::filesystem::path layers() const { return root / "layers"; }
  std::filesystem::path layer(const std::string& linear) const;  ///< layers/<linear>.h5; a name with a slash is refused
  std::filesystem::path hessians() const { return root / "hessians"; }
  std::filesystem::path hessian(std::int64_t block, const std::string& site)
      const;  ///< hessians/block_007.down.h5, block_007.expert.3.down.h5; no slash
  std::filesystem::path quarantine() const { return root / "quarantine"; }
  std::filesystem::path evaluations() const { return root / "evaluations"; }
  std::filesystem::path exported() const { return root / "export"; }
  std::filesystem::path report() const { return root / "report"; }
  std::filesystem::path logs() const { return root / "logs"; }
};

/// Creates root and sub-directories; throws StoreError with the remedy when it cannot be written, and ConfigError when
/// `root` exists, is not empty and is not a run directory.
void create_run_directory(const RunPaths& paths);

/// Exclusive writer: flock on the lock file plus host, pid and job id in it. Held until destroyed (released by the
/// kernel when the process dies). Throws StoreError naming the holder when another process holds it; a stale record of
/// a dead process is replaced
/// (`stale_holder` tells whose it was).
class RunLock {
 public:
  explicit RunLock(const RunPaths& paths);
  ~RunLock();
  RunLock(const RunLock&) = delete;
  RunLock& operator=(const RunLock&) = delete;
  const std::optional<std::string>& stale_holder() const { return stale_holder_; }

 private:
  int descriptor_ = -1;
  std::optional<std::string> stale_holder_;
};

/// First start: writes run.json = identity (with its checksum). Later: compares; throws ConfigError listing every
/// difference as "key: was A, is B" with the remedy (another --run, or the old settings).
void check_or_write_identity(const RunPaths& paths, const core::Json& identity, const std::string& tag);
core::Json read_identity(const RunPaths& paths);

/// Moves a damaged file to quarantine/<name>.<n> and returns the new path.
std::filesystem::path quarantine_file(const RunPaths& paths, const std::filesystem::path& file);

}  // namespace voronoi::store
