#include "planning/linear_summary.h"

#include <algorithm>

namespace voronoi::planning {

std::string role_of(const std::string& name) {
  std::string role;
  std::size_t begin = 0, part = 0;
  while (begin <= name.size()) {
    const std::size_t end = std::min(name.find('.', begin), name.size());
    std::string word = name.substr(begin, end - begin);
    if (part++ >= 3) {
      if (!word.empty() && std::all_of(word.begin(), word.end(), [](char c) { return c >= '0' && c <= '9'; }))
        word = "*";
      role += (role.empty() ? "" : ".") + word;
    }
    begin = end + 1;
  }
  return role.empty() ? name : role;
}

double weighted_mean(const std::vector<std::pair<double, std::int64_t>>& values) {
  if (values.empty()) return 0;
  double sum = 0, weights = 0;
  for (const auto& [value, weight] : values) {
    sum += (value - values.front().first) * static_cast<double>(weight);
    weights += static_cast<double>(weight);
  }
  return values.front().first + sum / weights;
}

}  // namespace voronoi::planning
