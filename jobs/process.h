// What concerns the process as a whole: its share of the host's cores, requests to stop, agreement between ranks.
#pragma once

#include <exception>
#include <functional>
#include <memory>
#include <string>

#include "backend/device.h"
#include "comm/mpi.h"

namespace voronoi::jobs {

/// SIGTERM and SIGUSR1 from now on only set a flag, which the command looks at between layers.
void install_stop_handlers();
bool stop_requested();

/// Context for this rank. requested_threads 0: the host's cores divided by its ranks. mpirun binds each of up to two
/// ranks to a single core by default; outside of a batch system, whose binding is deliberate, the rank takes its share
/// of the others too. device "auto" takes the GPU when there is one and says in a line what it took. Throws ConfigError
/// when "cuda" cannot be had.
std::unique_ptr<backend::Context> make_context(const std::string& device, int requested_threads,
                                               const comm::Communicator& world);

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
void together(const comm::Communicator& world, const std::function<void()>& work);
/// The same with work for rank 0 alone.
void on_root(const comm::Communicator& world, const std::function<void()>& work);

/// Seconds since 1970, for records.
double unix_time();

}  // namespace voronoi::jobs
