#include "backend/gpus.h"

#include <fmt/format.h>

#include <map>
#include <set>
#include <span>

#include "core/error.h"
#include "core/json.h"
#include "core/log.h"
#include "core/whereabouts.h"

namespace voronoi::backend {
namespace {

std::unique_ptr<Context> open_gpu(int n_threads, int local_rank, GpuOffer& offer) {
  try {
    const int n = count_devices(Device::cuda);
    if (n == 0) throw core::DeviceError("there is no GPU, or no driver (570 or later, 580 for CUDA 13) for it");
    auto context = std::make_unique<Context>(Device::cuda, n_threads, local_rank % n);
    offer.identity = context->memory().facts(context->exec()).identity;
    return context;
  } catch (const core::Error& error) {
    offer.problem = error.what();
    return nullptr;
  }
}

/// Everyone's offer, by rank.
std::vector<GpuOffer> exchange(const comm::Communicator& world, const GpuOffer& mine) {
  const std::string text = core::Json{mine.host, mine.identity, mine.problem}.dump();
  std::vector<GpuOffer> offers;
  for (const std::vector<std::byte>& bytes : world.all_gather(std::as_bytes(std::span(text)))) {
    const std::string other(reinterpret_cast<const char*>(bytes.data()), bytes.size());
    const core::Json fields = core::parse_json(other, "another rank's GPU");
    offers.push_back({fields[0].get<std::string>(), fields[1].get<std::string>(), fields[2].get<std::string>()});
  }
  return offers;
}

}  // namespace

std::string gpu_problem(const std::vector<GpuOffer>& offers) {
  std::map<std::string, std::set<std::string>> gpus;
  std::map<std::string, int> ranks;
  for (const GpuOffer& offer : offers) {
    if (!offer.problem.empty()) return offer.host + ": " + offer.problem;
    gpus[offer.host].insert(offer.identity);
    ++ranks[offer.host];
  }
  for (const auto& [host, identities] : gpus) {
    const auto n_gpus = static_cast<int>(identities.size());
    if (ranks[host] > n_gpus)
      return fmt::format(
          "{}: {} ranks share {} GPU(s); start one rank a GPU (mpirun --map-by ppr:{}:node, srun --ntasks-per-node={})",
          host, ranks[host], n_gpus, n_gpus, n_gpus);
  }
  return {};
}

std::unique_ptr<Context> take_gpu(int n_threads, const comm::Communicator& world, std::string& problem) {
  GpuOffer mine;
  mine.host = core::host_name();
  std::unique_ptr<Context> context = open_gpu(n_threads, comm::local_ranks(world).rank, mine);
  problem = gpu_problem(exchange(world, mine));
  if (!problem.empty()) return nullptr;
  if (world.rank() == 0) {
    const kernels::DeviceFacts facts = context->memory().facts(context->exec());
    core::log_info("computing on {} GPU(s): {}, {} MiB free", world.size(), facts.name, facts.free_bytes >> 20);
  }
  return context;
}

}  // namespace voronoi::backend
