#include <nccl.h>

#include <cstring>
#include <string>

#include "kernels/cuda/families.h"
#include "kernels/cuda/native.h"

namespace voronoi::kernels {
namespace {

static_assert(sizeof(ncclUniqueId) == sizeof(GroupId));

void require(ncclResult_t result, const char* call) {
  if (result != ncclSuccess)
    throw core::CommError(std::string(call) + ": " + ncclGetErrorString(result) + " (NCCL_DEBUG=WARN says more)");
}

ncclComm_t communicator(void* group) { return static_cast<ncclComm_t>(group); }

bool available() noexcept { return true; }

GroupId make_id() {
  ncclUniqueId unique;
  require(ncclGetUniqueId(&unique), "ncclGetUniqueId");
  GroupId id;
  std::memcpy(id.data(), &unique, sizeof unique);
  return id;
}

void* join(const Exec& exec, const GroupId& id, int rank, int n_ranks) {
  gpu::native(exec);
  ncclUniqueId unique;
  std::memcpy(&unique, id.data(), sizeof unique);
  ncclComm_t group = nullptr;
  require(ncclCommInitRank(&group, n_ranks, unique, rank), "ncclCommInitRank");
  return group;
}

void leave(void* group) noexcept {
  cudaDeviceSynchronize();
  ncclCommDestroy(communicator(group));
}

void exchange_f64(const Exec& exec, void* group, std::int64_t n_sent, const double* sent, int to,
                  std::int64_t n_received, double* received, int from) {
  cudaStream_t stream = gpu::native(exec).stream;
  require(ncclGroupStart(), "ncclGroupStart");
  if (n_sent > 0)
    require(ncclSend(sent, static_cast<std::size_t>(n_sent), ncclDouble, to, communicator(group), stream), "ncclSend");
  if (n_received > 0)
    require(ncclRecv(received, static_cast<std::size_t>(n_received), ncclDouble, from, communicator(group), stream),
            "ncclRecv");
  require(ncclGroupEnd(), "ncclGroupEnd");
}

}  // namespace

CollectiveKernels cuda_collective_kernels() {
  return {.available = available, .make_id = make_id, .join = join, .leave = leave, .exchange_f64 = exchange_f64};
}

}  // namespace voronoi::kernels
