#include "core/whereabouts.h"

#include <unistd.h>

#include <array>
#include <chrono>

namespace voronoi::core {

double unix_time() {
  return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
}

std::string host_name() {
  std::array<char, 256> name{};
  if (::gethostname(name.data(), name.size() - 1) != 0) return "unknown host";
  return name.data();
}

}  // namespace voronoi::core
