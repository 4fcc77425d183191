// Agreement between ranks on what went wrong, so that a common mistake is printed once and every rank ends in order.
#pragma once

#include <exception>
#include <functional>

#include "comm/mpi.h"

namespace voronoi::comm {

/// Error of another rank: this rank has nothing to print.
struct FailedElsewhere {
  int exit_code;
};

/// This rank's error, known to all ranks: each ends in order, none needs to be aborted.
struct AgreedError {
  std::exception_ptr error;
};

/// Runs `work` on every rank; collective. When it throws anywhere, the lowest failing rank throws its error as
/// AgreedError and all others throw FailedElsewhere with its exit code, so that a common mistake is printed once and
/// every rank ends in order.
void together(const Communicator& world, const std::function<void()>& work);
/// The same with work for rank 0 alone.
void on_root(const Communicator& world, const std::function<void()>& work);
/// Work that a request to stop ends with StopRequested on every rank: leaves then as on_root does, so that it is told
/// once.
void stop_in_order(const Communicator& world, const std::function<void()>& work);

}  // namespace voronoi::comm
