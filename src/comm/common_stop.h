// A stop that is asked for on one rank, made known to all of them in the middle of work that each does on its own.
#pragma once

#include <functional>
#include <optional>

#include "comm/mpi.h"

namespace voronoi::comm {

/// Every rank works between two calls of agreed(), looking at asked() on its way. A stop is final: once agreed on,
/// both are true for ever.
class CommonStop {
 public:
  /// Collective. requested: whether this rank is to stop; null: it never is. `world` must outlive it.
  CommonStop(const Communicator& world, std::function<bool()> requested);

  /// Whether a stop was asked for here, or has come to be known from another rank: this rank is to leave its work, and
  /// to call agreed(). On one thread.
  bool asked();
  /// Collective, behind the work or where it was left: whether a stop was asked for on any rank.
  bool agreed();

 private:
  const Communicator& world_;
  std::optional<Communicator> words_;  ///< where there are others
  std::function<bool()> requested_;
  bool asked_ = false, told_ = false;
  int n_taken_ = 0;  ///< words of others
};

}  // namespace voronoi::comm
