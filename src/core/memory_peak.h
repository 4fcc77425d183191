// The worst of several moments: for predictions of memory.
#pragma once

#include <cstdint>
#include <string>
#include <utility>

namespace voronoi::core {

struct MemoryPeak {
  std::int64_t bytes = 0;
  std::string where;  ///< what holds them, for people

  void consider(std::int64_t candidate_bytes, std::string candidate_where) {
    if (candidate_bytes <= bytes) return;
    bytes = candidate_bytes;
    where = std::move(candidate_where);
  }
};

}  // namespace voronoi::core
