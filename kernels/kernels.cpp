#include "kernels/kernels.h"

#include <dlfcn.h>

#include <cstdlib>
#include <filesystem>
#include <string>

#include "core/error.h"

namespace voronoi::kernels {
namespace {

constexpr const char* kModule = "libvoronoi_cuda.so";
constexpr const char* kEntry = "voronoi_cuda_kernels";

std::string find_module() {
  if (const char* named = std::getenv("VORONOI_CUDA_MODULE"); named != nullptr && *named != '\0') return named;
  std::error_code unreadable;
  const std::filesystem::path folder = std::filesystem::read_symlink("/proc/self/exe", unreadable).parent_path();
  // As built; as installed (cmake/VoronoiInstall.cmake).
  const std::filesystem::path installed = folder.parent_path() / "lib" / "voronoi";
  for (const auto& candidate : {folder / kModule, installed / kModule})
    if (std::filesystem::exists(candidate, unreadable)) return candidate.string();
  throw core::NotCompiled(std::string("this build has no CUDA backend: ") + kModule + " is neither in " +
                          folder.string() + " nor in " + installed.string() +
                          "; build where a CUDA toolkit is (cmake -DVORONOI_CUDA=ON), or install voronoi-cuda");
}

const Kernels& load_module() {
  const std::string path = find_module();
  // Never closed: the table's functions are used until the process ends.
  void* module = ::dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (module == nullptr)
    throw core::NotCompiled("the CUDA module cannot be loaded: " + std::string(::dlerror()) +
                            "; put the CUDA toolkit's libraries on LD_LIBRARY_PATH");
  using Entry = const Kernels* (*)(std::size_t);
  const auto entry = reinterpret_cast<Entry>(::dlsym(module, kEntry));
  const Kernels* table = entry != nullptr ? entry(sizeof(Kernels)) : nullptr;
  if (table == nullptr)
    throw core::NotCompiled(path + " is the module of another version; build it together with the program");
  return *table;
}

}  // namespace

const Kernels& cpu() {
  static const Kernels table{.device = cpu_device_kernels(),
                             .linalg = cpu_linalg_kernels(),
                             .nn = cpu_nn_kernels(),
                             .nn_gradient = cpu_nn_gradient_kernels(),
                             .vq = cpu_vq_kernels(),
                             .slice = cpu_vq_slice_kernels(),
                             .hessian = cpu_hessian_kernels(),
                             .collective = no_collective_kernels(),
                             .vptq = cpu_vptq_kernels(),
                             .gptvq = cpu_gptvq_kernels(),
                             .uniform = cpu_uniform_kernels(),
                             .signed_levels = cpu_signed_levels_kernels(),
                             .rotation = cpu_rotation_kernels(),
                             .e8p = cpu_e8p_kernels(),
                             .trellis = cpu_trellis_kernels(),
                             .aqlm = cpu_aqlm_kernels(),
                             .delta_rule = cpu_delta_rule_kernels()};
  return table;
}

const Kernels& cuda() {
  static const Kernels& table = load_module();
  return table;
}

}  // namespace voronoi::kernels
