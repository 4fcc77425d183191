// The run's lock: one writer at a time, and what is known about the one that holds it.
#pragma once

#include <optional>
#include <string>

#include "store/run_directory.h"

namespace voronoi::store {

/// Exclusive writer: flock on lock.json, and a record of the holder in it. Held until destroyed; the kernel releases it
/// when the process dies, the server of a network file system perhaps much later when the host dies. A lock that is
/// held for a process that provably is gone is taken over: the file is replaced by a new one. Provably gone is a
/// process of this boot and process namespace that does not exist any more; an earlier run of this very Slurm job; a
/// Slurm job of this cluster that has ended, as squeue says. Throws StoreError otherwise, naming the holder, how to
/// tell whether it still lives, and the remedy. Nothing depends on the judgement being right: a holder that lives after
/// all cannot publish any more (start.h).
class RunLock {
 public:
  explicit RunLock(const RunPaths& paths);
  ~RunLock();
  RunLock(const RunLock&) = delete;
  RunLock& operator=(const RunLock&) = delete;
  /// Whose record was found, when the last holder did not end as it should, and why that is known.
  const std::optional<std::string>& stale_holder() const { return stale_holder_; }

 private:
  void take_over(const RunPaths& paths);
  void write_record(const std::filesystem::path& path) const;

  int descriptor_ = -1;
  std::optional<std::string> stale_holder_;
};

}  // namespace voronoi::store
