// Sums of losses that every rank knows to the last bit.
#pragma once

#include <cstddef>
#include <cstring>
#include <span>
#include <vector>

#include "comm/mpi.h"
#include "core/error.h"

namespace voronoi::tune {

/// Every rank's numbers, rank after rank; collective.
inline std::vector<double> all_numbers(const comm::Communicator& world, std::span<const double> mine) {
  std::vector<double> all;
  for (const std::vector<std::byte>& part : world.all_gather(std::as_bytes(mine))) {
    VORONOI_REQUIRE(part.size() % sizeof(double) == 0, "whole numbers are wanted");
    const std::size_t before = all.size();
    all.resize(before + part.size() / sizeof(double));
    if (!part.empty()) std::memcpy(all.data() + before, part.data(), part.size());
  }
  return all;
}

/// Rank 0's number, on every rank; collective.
inline double agreed_number(const comm::Communicator& world, double number) {
  world.broadcast(std::as_writable_bytes(std::span(&number, 1)), 0);
  return number;
}

inline double mean(std::span<const double> values) {
  double sum = 0;
  for (const double value : values) sum += value;
  return sum / static_cast<double>(values.empty() ? 1 : values.size());
}

inline double mean_square(std::span<const float> values) {
  double sum = 0;
  for (const float value : values) sum += static_cast<double>(value) * static_cast<double>(value);
  return sum / static_cast<double>(values.empty() ? 1 : values.size());
}

}  // namespace voronoi::tune
