// How far numbers are from goldens.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <iterator>
#include <limits>
#include <vector>

namespace voronoi::test {

/// Largest difference over largest magnitude; infinite where the sizes differ.
template <class Values>
double relative_distance(const Values& actual, const std::vector<float>& expected) {
  if (std::size(actual) != expected.size()) return std::numeric_limits<double>::infinity();
  double difference = 0, largest = 0;
  for (std::size_t i = 0; i < expected.size(); ++i) {
    difference = std::max(difference, std::abs(static_cast<double>(actual[i]) - static_cast<double>(expected[i])));
    largest = std::max(largest, std::abs(static_cast<double>(expected[i])));
  }
  return difference / largest;
}

}  // namespace voronoi::test
