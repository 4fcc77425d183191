// Work on numbered things that need nothing of each other, divided over ranks.
#pragma once

#include <cstddef>
#include <functional>
#include <string>
#include <vector>

#include "comm/mpi.h"

namespace voronoi::comm {

/// What work(i) says for i in 0 .. n - 1, on every rank; each rank does its share. Collective, with the same n; throws
/// as together() does (comm/agreement.h).
std::vector<std::string> divided(const Communicator& world, std::size_t n,
                                 const std::function<std::string(std::size_t)>& work);

}  // namespace voronoi::comm
