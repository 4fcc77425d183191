#include "backend/placement.h"

#include <cstdlib>
#include <span>
#include <string>
#include <vector>

#include "backend/cores.h"
#include "backend/gpus.h"
#include "core/error.h"
#include "core/json.h"
#include "core/log.h"
#include "core/whereabouts.h"

namespace voronoi::backend {
namespace {

/// Cores for this rank's threads. Collective.
int claim_cores(const comm::Communicator& world) {
  const bool default_binding = std::getenv("OMPI_COMM_WORLD_SIZE") != nullptr && std::getenv("SLURM_JOB_ID") == nullptr;
  if (default_binding) widen_default_binding();
  CoreClaim mine = claim_of_this_process();
  const std::string text = core::Json{core::host_name(), mine.cores, mine.group, mine.quota}.dump();
  std::vector<CoreClaim> claims;
  for (const std::vector<std::byte>& bytes : world.all_gather(std::as_bytes(std::span(text)))) {
    const std::string other(reinterpret_cast<const char*>(bytes.data()), bytes.size());
    const core::Json fields = core::parse_json(other, "another rank's cores");
    claims.push_back({fields[0].get<std::string>(), fields[1].get<std::vector<int>>(), fields[2].get<std::string>(),
                      fields[3].get<double>()});
  }
  return fair_threads(claims, static_cast<std::size_t>(world.rank()));
}

}  // namespace

std::unique_ptr<Context> make_context(const std::string& device, int requested_threads,
                                      const comm::Communicator& world) {
  const int cores = claim_cores(world);
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
