// What a plan is made from: a run's settings, its files, and the machine it is for.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "model/config.h"
#include "planning/plan.h"
#include "run/settings.h"

namespace voronoi::planning {

/// What starting MPI adds to the resident memory of a rank, for predictions by a process that has not started it.
/// Measured with Open MPI 4.1.4 of Debian 12 on one host, around MPI_Init_thread and the first barrier: 9.4 to 9.7 MiB
/// on 1, 2 and 4 ranks with the transports it picks itself, 7.4 with ob1 over vader. What messages add later is not in
/// it.
constexpr std::int64_t kMpiBytes = 10 << 20;

/// Resident memory of this process; 0 where the system does not tell.
std::int64_t resident_bytes();

struct Resources {
  int ranks = 1;
  int ranks_per_node = 0;  ///< 0: 8 on GPUs, else the cores of this machine by the threads
  int threads = 0;    ///< a rank; 0: the settings', or 8 on GPUs, else the cores of this machine by the ranks of a node
  bool cuda = false;  ///< whether --device auto means GPUs
  std::int64_t gpu_memory = 0;     ///< bytes a GPU; 0: 80 GiB
  std::int64_t node_memory = 0;    ///< bytes a node, 0: not told
  std::int64_t program_bytes = 0;  ///< resident memory of a rank that has done nothing
  bool probe = false;              ///< time the kernels here
  std::string rates_file;          ///< empty: the table's
};

/// `options`: --bits resolved; `given`: those of them that a job is to be given, in the order given. Throws ConfigError
/// where resources contradict each other, FormatError and StoreError for the file of rates.
PlanRequest make_request(const run::Settings& options, std::vector<run::GivenOption> given,
                         const model::ModelConfig& config, const Resources& resources);

}  // namespace voronoi::planning
