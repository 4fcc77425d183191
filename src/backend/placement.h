// Which cores and which device a rank computes with.
#pragma once

#include <memory>
#include <string>

#include "backend/device.h"
#include "comm/mpi.h"

namespace voronoi::backend {

/// Context for this rank. requested_threads 0: its fair share of the cores that it and the other ranks of its host may
/// use. A rank that mpirun bound to a single core by default takes those of mpirun; not in a batch system, whose
/// binding is deliberate. device "auto" takes a GPU for every rank or else the CPU for all, and a line says which and
/// why. Collective. Throws DeviceError when "cuda" cannot be had.
std::unique_ptr<Context> make_context(const std::string& device, int requested_threads,
                                      const comm::Communicator& world);

}  // namespace voronoi::backend
