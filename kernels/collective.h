// Device arrays from rank to rank without the host between (NCCL). Optional: where available() is false, callers send
// host copies over MPI instead, which carries the same bytes. Nothing is summed on the way, so that results do not
// depend on the transport; sums over ranks exchange slices of the nodes of their trees.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "core/error.h"
#include "kernels/exec.h"

namespace voronoi::kernels {

using GroupId = std::array<std::byte, 128>;

struct CollectiveKernels {
  /// The other entries may only be called where this is true.
  bool (*available)() noexcept;
  /// For one rank to make and to pass on to all others (over MPI) before they join.
  GroupId (*make_id)();
  /// Collective over the ranks of the group, each with a GPU of its own. Throws CommError, as all below.
  void* (*join)(const Exec&, const GroupId&, int rank, int n_ranks);
  /// Waits for what was sent and received.
  void (*leave)(void* group) noexcept;
  /// Both at once, queued in order: `to` receives as many values from this rank, `from` sends as many. To oneself is
  /// not allowed; where a number is 0 nothing goes that way.
  void (*exchange_f64)(const Exec&, void* group, std::int64_t n_sent, const double* sent, int to,
                       std::int64_t n_received, double* received, int from);
};

// Named functions: nvcc does not take lambdas among designated initialisers.
namespace no_transport {
[[noreturn]] inline void refuse() { throw core::InternalError("no transport between devices"); }
inline bool available() noexcept { return false; }
inline GroupId make_id() { refuse(); }
inline void* join(const Exec&, const GroupId&, int, int) { refuse(); }
inline void leave(void*) noexcept {}
inline void exchange_f64(const Exec&, void*, std::int64_t, const double*, int, std::int64_t, double*, int) { refuse(); }
}  // namespace no_transport

/// Of backends without such a transport.
inline CollectiveKernels no_collective_kernels() {
  return {.available = no_transport::available,
          .make_id = no_transport::make_id,
          .join = no_transport::join,
          .leave = no_transport::leave,
          .exchange_f64 = no_transport::exchange_f64};
}

}  // namespace voronoi::kernels
