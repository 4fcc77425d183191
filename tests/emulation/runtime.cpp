// The emulated GPU's facts and errors.
#include <cuda_runtime.h>
#include <dlfcn.h>
#include <unistd.h>

#include <cstdio>
#include <cstring>
#include <string>

#include "tests/emulation/memory.h"

const char* cudaGetErrorString(cudaError_t error) {
  switch (error) {
    case cudaSuccess:
      return "no error";
    case cudaErrorMemoryAllocation:
      return "out of memory";
    case cudaErrorInvalidDevice:
      return "invalid device ordinal";
    case cudaErrorInvalidConfiguration:
      return "invalid configuration argument";
    default:
      return "invalid argument";
  }
}

const char* cudaGetErrorName(cudaError_t) { return "emulated"; }
cudaError_t cudaGetLastError() { return cudaSuccess; }

cudaError_t cudaGetDeviceCount(int* n) {
  *n = 1;
  return cudaSuccess;
}

cudaError_t cudaSetDevice(int ordinal) { return ordinal == 0 ? cudaSuccess : cudaErrorInvalidDevice; }

cudaError_t cudaDeviceSynchronize() { return cudaSuccess; }  // what streams hold back are copies of arrays alone

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr which, int) {
  switch (which) {
    case cudaDevAttrComputeCapabilityMajor:
      *value = 9;
      break;
    case cudaDevAttrComputeCapabilityMinor:
      *value = 0;
      break;
    case cudaDevAttrMemoryPoolsSupported:
      *value = 1;
      break;
    case cudaDevAttrMultiProcessorCount:
      *value = 3;
      break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
      *value = 227 << 10;
      break;
  }
  return cudaSuccess;
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int) {
  std::strcpy(properties->name, "emulated GPU");
  // Each process has one of its own.
  const auto process = ::getpid();
  std::memcpy(properties->uuid.bytes, &process, sizeof process);
  return cudaSuccess;
}

cudaError_t cudaFuncSetAttribute(const void*, cudaFuncAttribute, int) { return cudaSuccess; }

cudaError_t cudaFuncGetName(const char** name, const void* kernel) {
  // Kernels have no dynamic symbols; addr2line turns this into a line of the source.
  static std::string text;
  Dl_info info{};
  ::dladdr(kernel, &info);
  char offset[32];
  std::snprintf(offset, sizeof offset, "+0x%zx",
                reinterpret_cast<std::size_t>(kernel) - reinterpret_cast<std::size_t>(info.dli_fbase));
  text = std::string("kernel ") + (info.dli_sname != nullptr ? info.dli_sname : "") + " at " + info.dli_fname + offset;
  *name = text.c_str();
  return cudaSuccess;
}
