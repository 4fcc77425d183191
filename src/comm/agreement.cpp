#include "comm/agreement.h"

#include <limits>

#include "core/error.h"

namespace voronoi::comm {
namespace {

int exit_code_of(const std::exception_ptr& error) {
  try {
    std::rethrow_exception(error);
  } catch (const core::Error& known) {
    return static_cast<int>(known.exit_code());
  } catch (...) {
    return static_cast<int>(core::ExitCode::system);
  }
}

}  // namespace

void together(const Communicator& world, const std::function<void()>& work) {
  std::exception_ptr error;
  try {
    work();
  } catch (...) {
    error = std::current_exception();
  }
  // The lowest failing rank has the largest code here; 0 means that all went well.
  constexpr std::int64_t kRanks = std::numeric_limits<int>::max();
  const std::int64_t mine = error ? (kRanks - world.rank()) * 256 + exit_code_of(error) : 0;
  const std::int64_t first = world.all_max(mine);
  if (first == 0) return;
  if (error && first == mine) throw AgreedError{error};
  throw FailedElsewhere{static_cast<int>(first % 256)};
}

void on_root(const Communicator& world, const std::function<void()>& work) {
  together(world, [&] {
    if (world.rank() == 0) work();
  });
}

void stop_in_order(const Communicator& world, const std::function<void()>& work) {
  bool stopped = false;
  try {
    work();
  } catch (const core::StopRequested&) {
    stopped = true;
  }
  if (stopped) on_root(world, [] { throw core::StopRequested(); });
}

}  // namespace voronoi::comm
