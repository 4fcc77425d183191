// A rank does not outlive its launcher.
#pragma once

#include <sys/types.h>

#include <condition_variable>
#include <mutex>
#include <thread>

namespace voronoi::comm {

/// While it lives, the death of the process that started this one (mpirun, a daemon of it, a step of Slurm) ends this
/// one within about a second: exit code 5. MPI itself does not tell, and without a launcher nobody ends the ranks
/// when one of them dies.
class LauncherWatch {
 public:
  LauncherWatch();

 private:
  void watch(const std::stop_token& stop);

  pid_t launcher_;
  std::mutex mutex_;
  std::condition_variable_any stopped_;
  std::jthread thread_;  ///< last: it uses the others
};

}  // namespace voronoi::comm
