// lock.json that a dead process left, and one whose lock is held.
#include <sys/file.h>

#include "fuzz/fuzz.h"
#include "store/run_lock.h"

namespace voronoi::fuzz {
namespace {

void take(const store::RunPaths& paths) {
  accepts([&] {
    const store::RunLock lock(paths);
    if (lock.stale_holder()) check_message(*lock.stale_holder());
  });
}

void run(std::string_view input) {
  static const Folder folder;
  static const bool alone = [] {  // no job of a batch system: its commands are not to be asked
    for (const char* name : {"SLURM_CLUSTER_NAME", "SLURM_JOB_ID", "SLURM_RESTART_COUNT"}) ::unsetenv(name);
    return true;
  }();
  require(alone, "environment");
  const store::RunPaths paths{folder.path()};
  const std::string file = folder.write("lock.json", input);
  take(paths);
  folder.write("lock.json", input);
  const int holder = ::open(file.c_str(), O_RDWR | O_CLOEXEC);
  require(holder >= 0 && ::flock(holder, LOCK_EX | LOCK_NB) == 0, "cannot hold the lock");
  take(paths);
  ::close(holder);
}

}  // namespace
}  // namespace voronoi::fuzz

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  voronoi::fuzz::run(voronoi::fuzz::text_of(data, size));
  return 0;
}
