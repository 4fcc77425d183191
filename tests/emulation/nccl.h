// The part of NCCL that kernels/cuda uses, between processes of one host over local sockets.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>

enum ncclResult_t { ncclSuccess = 0, ncclSystemError = 2, ncclInvalidArgument = 4 };
enum ncclDataType_t { ncclDouble = 8 };
struct ncclUniqueId {
  char internal[128];
};
struct EmulatedGroup;
using ncclComm_t = EmulatedGroup*;

const char* ncclGetErrorString(ncclResult_t);
ncclResult_t ncclGetUniqueId(ncclUniqueId*);
ncclResult_t ncclCommInitRank(ncclComm_t*, int n_ranks, ncclUniqueId, int rank);
ncclResult_t ncclCommDestroy(ncclComm_t);
/// Between them, sends and receives are done together at the end.
ncclResult_t ncclGroupStart();
ncclResult_t ncclGroupEnd();
ncclResult_t ncclSend(const void*, std::size_t n, ncclDataType_t, int peer, ncclComm_t, cudaStream_t);
ncclResult_t ncclRecv(void*, std::size_t n, ncclDataType_t, int peer, ncclComm_t, cudaStream_t);
