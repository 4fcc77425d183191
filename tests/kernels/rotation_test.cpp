#include "kernels/rotation.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <random>
#include <vector>

#include "kernels/kernels.h"

namespace voronoi::kernels {
namespace {

std::size_t at_index(std::int64_t i) { return static_cast<std::size_t>(i); }

/// A rotation of 4 x `block` coordinates, `copies` times, with H = 2 P - J, P taking each of four to the next.
struct Case {
  explicit Case(std::int64_t block, std::int64_t copies) : block_size(block), n(4 * block * copies) {
    for (std::uint32_t i = 0; i < 4; ++i) factor.push_back(0xFU & ~(1U << ((i + 1) % 4)));
    std::mt19937 engine(static_cast<std::uint32_t>(n));
    for (std::int64_t word = 0; word < (n + 31) / 32; ++word) signs.push_back(static_cast<std::uint32_t>(engine()));
  }
  Rotation rotation() const { return {n, 4, block_size, factor.data(), signs.data()}; }
  /// T as a matrix, by the definition.
  std::vector<double> dense() const {
    std::vector<double> t(at_index(n * n));
    const std::int64_t size = 4 * block_size;
    for (std::int64_t i = 0; i < n; ++i)
      for (std::int64_t j = 0; j < n; ++j) {
        if (i / size != j / size) continue;
        const std::int64_t a = i % size, b = j % size;
        const auto common = static_cast<std::uint64_t>((a % block_size) & (b % block_size));
        const bool is_negative = (factor[at_index(a / block_size)] >> (b / block_size) & 1U) != 0;
        const bool is_turned = (signs[at_index(j / 32)] >> (j % 32) & 1U) != 0;
        const int minus = (is_negative ? 1 : 0) + (is_turned ? 1 : 0) + std::popcount(common);
        t[at_index(i * n + j)] = (minus % 2 != 0 ? -1 : 1) / std::sqrt(static_cast<double>(size));
      }
    return t;
  }
  std::int64_t block_size, n;
  std::vector<std::uint32_t> factor, signs;
};

TEST(Rotation, TurnsRowsAndColumnsByItsMatrixAndBack) {
  for (const auto& [block, copies] : {std::pair<std::int64_t, std::int64_t>{1, 1}, {2, 3}, {8, 1}, {16, 2}}) {
    const Case c(block, copies);
    const std::int64_t n = c.n, m = 21;  // vectors: more than are turned at a time
    std::mt19937 engine(3);
    std::normal_distribution<float> normal;
    std::vector<float> x(at_index(m * n));
    for (float& value : x) value = normal(engine);
    const std::vector<double> t = c.dense();
    std::vector<float> first_rows;
    for (const int threads : {1, 3}) {
      core::ThreadPool pool(threads);
      const Exec exec{&pool, nullptr};
      std::vector<float> rows = x, columns(x.size());
      for (std::int64_t v = 0; v < m; ++v)
        for (std::int64_t i = 0; i < n; ++i) columns[at_index(i * m + v)] = x[at_index(v * n + i)];
      const std::vector<float> columns_before = columns;
      cpu().rotation.turn_rows(exec, c.rotation(), false, m, rows.data());
      cpu().rotation.turn_columns(exec, c.rotation(), false, m, columns.data());
      for (std::int64_t v = 0; v < m; ++v)
        for (std::int64_t i = 0; i < n; ++i) {
          double sum = 0;
          for (std::int64_t j = 0; j < n; ++j)
            sum += t[at_index(i * n + j)] * static_cast<double>(x[at_index(v * n + j)]);
          ASSERT_NEAR(static_cast<double>(rows[at_index(v * n + i)]), sum, 1e-5) << n << ", vector " << v << ", " << i;
          ASSERT_EQ(columns[at_index(i * m + v)], rows[at_index(v * n + i)]);
        }
      if (first_rows.empty()) first_rows = rows;
      EXPECT_EQ(rows, first_rows);
      cpu().rotation.turn_rows(exec, c.rotation(), true, m, rows.data());
      cpu().rotation.turn_columns(exec, c.rotation(), true, m, columns.data());
      for (std::size_t i = 0; i < x.size(); ++i) {
        ASSERT_NEAR(rows[i], x[i], 1e-6F);
        ASSERT_NEAR(columns[i], columns_before[i], 1e-6F);
      }
    }
  }
}

}  // namespace
}  // namespace voronoi::kernels
