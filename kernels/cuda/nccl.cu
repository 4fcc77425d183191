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

void send_f64(const Exec& exec, void* group, std::int64_t n, const double* values, int peer) {
  require(
      ncclSend(values, static_cast<std::size_t>(n), ncclDouble, peer, communicator(group), gpu::native(exec).stream),
      "ncclSend");
}

void receive_f64(const Exec& exec, void* group, std::int64_t n, double* values, int peer) {
  require(
      ncclRecv(values, static_cast<std::size_t>(n), ncclDouble, peer, communicator(group), gpu::native(exec).stream),
      "ncclRecv");
}

}  // namespace

CollectiveKernels cuda_collective_kernels() {
  return {.available = available,
          .make_id = make_id,
          .join = join,
          .leave = leave,
          .send_f64 = send_f64,
          .receive_f64 = receive_f64};
}

}  // namespace voronoi::kernels
