#include "format/recoding.h"

#include <algorithm>
#include <cmath>
#include <functional>

namespace voronoi::format {

std::vector<std::int64_t> farthest(std::span<const float> distances, double share) {
  std::vector<float> sorted;
  for (const float distance : distances)
    if (distance > 0 && std::isfinite(distance)) sorted.push_back(distance);
  const auto asked = static_cast<std::size_t>(std::ceil(share * static_cast<double>(distances.size())));
  const std::size_t n = std::min(asked, sorted.size());
  std::vector<std::int64_t> chosen;
  if (n == 0) return chosen;
  const auto last = sorted.begin() + static_cast<std::ptrdiff_t>(n - 1);
  std::nth_element(sorted.begin(), last, sorted.end(), std::greater<>());
  const float least = *last;
  auto n_equal = static_cast<std::ptrdiff_t>(n) -
                 std::count_if(sorted.begin(), last, [least](float distance) { return distance > least; });
  chosen.reserve(n);
  for (std::size_t i = 0; i < distances.size(); ++i) {
    const float distance = distances[i];
    if (!std::isfinite(distance) || distance < least || (distance == least && n_equal-- <= 0)) continue;
    chosen.push_back(static_cast<std::int64_t>(i));
  }
  return chosen;
}

}  // namespace voronoi::format
