#include "core/team.h"

#include <algorithm>
#include <cstring>

namespace voronoi::core {

std::vector<double> Team::sum(std::span<const double> mine, std::int64_t size, std::int64_t n_arrays) {
  const auto n = static_cast<std::size_t>(size);
  VORONOI_REQUIRE(size > 0 && mine.size() % n == 0, "a member gives whole arrays");
  std::vector<double> total(n, 0.0);
  std::int64_t seen = 0;
  const auto add = [&](std::span<const std::byte> arrays) {
    VORONOI_REQUIRE(arrays.size() % (n * sizeof(double)) == 0, "a member sent part of an array");
    for (; !arrays.empty(); arrays = arrays.subspan(n * sizeof(double)), ++seen)
      for (std::size_t i = 0; i < n; ++i) {
        double value = 0;  // bytes that were received need not lie as doubles do
        std::memcpy(&value, arrays.data() + i * sizeof value, sizeof value);
        total[i] += value;
      }
  };
  if (this->size() == 1) {
    add(std::as_bytes(mine));
  } else {
    for (const std::vector<std::byte>& arrays : all_gather(std::as_bytes(mine))) add(arrays);
  }
  VORONOI_REQUIRE(seen == n_arrays, "arrays of a sum are missing");
  return total;
}

void Team::broadcast(std::span<std::byte> bytes, int root) {
  if (size() == 1) return;
  const bool gives = rank() == root;
  const std::vector<std::vector<std::byte>> all =
      all_gather(gives ? std::span<const std::byte>(bytes) : std::span<const std::byte>());
  const std::vector<std::byte>& given = all[static_cast<std::size_t>(root)];
  VORONOI_REQUIRE(given.size() == bytes.size(), "a broadcast of another size than is expected");
  if (!gives) std::copy(given.begin(), given.end(), bytes.begin());
}

}  // namespace voronoi::core
