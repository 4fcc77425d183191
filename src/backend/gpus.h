// Which GPU a rank computes on.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "backend/device.h"
#include "comm/mpi.h"

namespace voronoi::backend {

/// What a rank found when it opened the GPU of its turn.
struct GpuOffer {
  std::string host, identity;
  std::string problem;  ///< empty: it is open
};

/// Why these ranks cannot compute on GPUs, each on its own; empty: they can.
std::string gpu_problem(const std::vector<GpuOffer>& offers);

/// Opens a GPU for every rank, those of a host in turn (CUDA_VISIBLE_DEVICES, which may give each rank another one,
/// is heeded). Collective: nothing, and the same `problem` on every rank, unless each has one of its own: the devices
/// compute to different precision, so all ranks are on the same kind. Says in a line what was taken.
std::unique_ptr<Context> take_gpu(int n_threads, const comm::Communicator& world, std::string& problem);

}  // namespace voronoi::backend
