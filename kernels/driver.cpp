#include "kernels/driver.h"

#include <dlfcn.h>

#include <cstdlib>

namespace voronoi::kernels {

bool cuda_possible() {
  const char* module = std::getenv("VORONOI_CUDA_MODULE");
  if (module != nullptr && *module != '\0') return true;
  void* driver = ::dlopen("libcuda.so.1", RTLD_LAZY | RTLD_LOCAL);
  if (driver == nullptr) return false;
  ::dlclose(driver);
  return true;
}

}  // namespace voronoi::kernels
