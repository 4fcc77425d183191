// Whether it is worth opening the CUDA module.
#pragma once

namespace voronoi::kernels {

/// Whether a driver's library is there, or VORONOI_CUDA_MODULE names a module: without either no GPU can be found, and
/// the module, whose libraries take some 200 MiB of a process, need not be opened to know.
bool cuda_possible();

}  // namespace voronoi::kernels
