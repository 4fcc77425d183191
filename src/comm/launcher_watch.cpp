#include "comm/launcher_watch.h"

#include <unistd.h>

#include <chrono>
#include <cstdlib>

#include "core/error.h"
#include "core/log.h"

namespace voronoi::comm {

LauncherWatch::LauncherWatch()
    : launcher_(::getppid()), thread_([this](const std::stop_token& stop) { watch(stop); }) {}

void LauncherWatch::watch(const std::stop_token& stop) {
  constexpr std::chrono::seconds kInterval{1};
  std::unique_lock lock(mutex_);
  while (!stopped_.wait_for(lock, stop, kInterval, [&] { return stop.stop_requested(); })) {
    // An orphan gets another parent.
    if (::getppid() == launcher_) continue;
    core::log_error("the launcher (process {}) has ended: this rank ends too", launcher_);
    std::_Exit(static_cast<int>(core::ExitCode::system));
  }
}

}  // namespace voronoi::comm
