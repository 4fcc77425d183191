// A random rotation as a dense matrix, by its definition.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <vector>

#include "format/hadamard.h"

namespace voronoi::test {

/// T of n coordinates, by its definition.
inline std::vector<double> dense_turn(std::int64_t n, const std::vector<std::uint32_t>& signs) {
  const format::HadamardPlan plan = format::hadamard_plan(n);
  const std::vector<std::uint32_t> factor = format::hadamard_factor(plan.order);
  const auto at = [](std::int64_t i) { return static_cast<std::size_t>(i); };
  const std::int64_t size = plan.order * plan.block, words = format::sign_words(plan.order);
  std::vector<double> t(at(n * n));
  for (std::int64_t i = 0; i < n; ++i)
    for (std::int64_t j = i / size * size; j < (i / size + 1) * size; ++j) {
      const std::int64_t a = i % size, b = j % size;
      int minus = std::popcount(static_cast<std::uint64_t>((a % plan.block) & (b % plan.block)));
      if (!factor.empty())
        minus +=
            static_cast<int>(factor[at(a / plan.block * words + b / plan.block / 32)] >> (b / plan.block % 32) & 1U);
      minus += static_cast<int>(signs[at(j / 32)] >> (j % 32) & 1U);
      t[at(i * n + j)] = (minus % 2 != 0 ? -1 : 1) / std::sqrt(static_cast<double>(size));
    }
  return t;
}

}  // namespace voronoi::test
