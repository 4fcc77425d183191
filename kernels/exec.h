// What a kernel needs of the machine it runs on: passed by reference to every kernel, never a global.
#pragma once

#include "core/thread_pool.h"

namespace voronoi::kernels {

struct Exec {
  core::ThreadPool* pool = nullptr;  ///< CPU threads; never null
  void* native = nullptr;  ///< CUDA: stream, library handles and workspace (kernels/cuda/native.h); null on the CPU
};

}  // namespace voronoi::kernels
