// Requests to stop: SIGTERM and SIGUSR1 (a batch system's time limit, a preemption).
#pragma once

namespace voronoi::core {

/// SIGTERM and SIGUSR1 from now on only set a flag, which long work looks at.
void install_stop_handlers();
bool stop_requested();

}  // namespace voronoi::core
