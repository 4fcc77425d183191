// Moves the nodes of sum trees between ranks: from GPU to GPU where the build has a transport between devices
// (kernels/collective.h), else through the host over MPI. Nothing is summed on the way: the same bits either way.
#pragma once

#include "backend/device.h"
#include "calib/sum_tree.h"
#include "comm/mpi.h"

namespace voronoi::calib {

class NodeTransport {
 public:
  /// Collective. Both must outlive it.
  NodeTransport(backend::Context& context, const comm::Communicator& communicator);
  ~NodeTransport();
  NodeTransport(const NodeTransport&) = delete;
  NodeTransport& operator=(const NodeTransport&) = delete;

  /// Empties the tree; `to` receives at the same time. Host memory holds one node at most.
  void send(SumTree& tree, int to) const;
  /// Adds the nodes that `from` sends.
  void receive(SumTree& tree, int from) const;

 private:
  backend::Context& context_;
  const comm::Communicator& communicator_;
  void* group_ = nullptr;  // null: over MPI
};

}  // namespace voronoi::calib
