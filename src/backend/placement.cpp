#include "backend/placement.h"

#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>

#include "backend/gpus.h"
#include "core/error.h"
#include "core/log.h"

namespace voronoi::backend {
namespace {

int bound_cores() {
  cpu_set_t mask;
  CPU_ZERO(&mask);
  if (::sched_getaffinity(0, sizeof mask, &mask) != 0) return 1;
  return CPU_COUNT(&mask);
}

/// Cores this rank may use; widens the binding that mpirun made by default.
int claim_cores(const comm::LocalRanks& local) {
  const int online = static_cast<int>(::sysconf(_SC_NPROCESSORS_ONLN));
  const bool default_binding = std::getenv("OMPI_COMM_WORLD_SIZE") != nullptr && std::getenv("SLURM_JOB_ID") == nullptr;
  const int share = std::max(1, online / local.size);
  if (default_binding && bound_cores() < share) {
    cpu_set_t all;
    CPU_ZERO(&all);
    for (int cpu = 0; cpu < std::min(online, CPU_SETSIZE); ++cpu) CPU_SET(static_cast<unsigned>(cpu), &all);
    ::sched_setaffinity(0, sizeof all, &all);
  }
  const int bound = bound_cores();
  return bound < online ? std::max(1, bound) : share;
}

}  // namespace

std::unique_ptr<Context> make_context(const std::string& device, int requested_threads,
                                      const comm::Communicator& world) {
  const comm::LocalRanks local = comm::local_ranks(world);
  const int cores = claim_cores(local);
  const int threads = requested_threads > 0 ? requested_threads : cores;
  if (device != "cpu") {
    std::string problem;
    if (auto context = take_gpu(threads, world, problem)) return context;
    if (device == "cuda") throw core::DeviceError("--device cuda: " + problem + "; or use --device cpu");
    if (world.rank() == 0)
      core::log_info("computing on the CPU ({} rank(s) x {} thread(s)): {}", world.size(), threads, problem);
  }
  return std::make_unique<Context>(Device::cpu, threads);
}

}  // namespace voronoi::backend
