// What a backend's table of entry points lacks.
#pragma once

#include <cstring>
#include <vector>

#include "kernels/kernels.h"

namespace voronoi::test {

/// Places of the null entries, counted through all families; the table holds nothing but entries.
inline std::vector<std::size_t> null_entries(const kernels::Kernels& table) {
  static_assert(sizeof table % sizeof(void*) == 0);
  std::vector<std::size_t> places;
  for (std::size_t i = 0; i < sizeof table / sizeof(void*); ++i) {
    void* entry = nullptr;
    std::memcpy(&entry, reinterpret_cast<const char*>(&table) + i * sizeof entry, sizeof entry);
    if (entry == nullptr) places.push_back(i);
  }
  return places;
}

}  // namespace voronoi::test
