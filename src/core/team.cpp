#include "core/team.h"

#include <algorithm>
#include <cstring>

namespace voronoi::core {

std::vector<double> Team::sum(std::span<const double> mine, std::int64_t size) {
  const auto n = static_cast<std::size_t>(size);
  VORONOI_REQUIRE(size > 0 && mine.size() % n == 0, "a member gives whole arrays");
  std::vector<double> total(n, 0.0), theirs(n);
  for (const std::vector<std::byte>& bytes : all_gather(std::as_bytes(mine))) {
    VORONOI_REQUIRE(bytes.size() % (n * sizeof(double)) == 0, "a member sent part of an array");
    for (std::size_t at = 0; at < bytes.size(); at += n * sizeof(double)) {
      std::memcpy(theirs.data(), bytes.data() + at, n * sizeof(double));
      for (std::size_t i = 0; i < n; ++i) total[i] += theirs[i];
    }
  }
  return total;
}

void Team::broadcast(std::span<std::byte> bytes, int root) {
  const bool gives = rank() == root;
  const std::vector<std::vector<std::byte>> all =
      all_gather(gives ? std::span<const std::byte>(bytes) : std::span<const std::byte>());
  const std::vector<std::byte>& given = all[static_cast<std::size_t>(root)];
  VORONOI_REQUIRE(given.size() == bytes.size(), "a broadcast of another size than is expected");
  if (!gives) std::copy(given.begin(), given.end(), bytes.begin());
}

}  // namespace voronoi::core
