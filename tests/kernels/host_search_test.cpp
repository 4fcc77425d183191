#include "kernels/host_search.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "core/error.h"

namespace voronoi::kernels {
namespace {

TEST(HostSearch, TakesTheNearestAndOfEqualOnesTheFirst) {
  for (const std::int64_t dim : {1, 2, 4, 8, 16})
    for (const std::int64_t n : {1, 16, 37, 130}) {
      constexpr std::int64_t k = 21;
      std::mt19937 engine(static_cast<std::uint32_t>(10 * n + dim));
      // Few whole numbers: exact arithmetic, many ties.
      const auto draw = [&engine] { return static_cast<float>(static_cast<int>(engine() % 5) - 2); };
      const std::int64_t stride = host_lanes(n) + kHostLanes;
      std::vector<float> x(static_cast<std::size_t>(dim * stride)), book(static_cast<std::size_t>((dim + 1) * k), 0.0F);
      for (float& value : x) value = draw();
      for (std::int64_t j = 0; j < k; ++j)
        for (std::int64_t d = 0; d < dim; ++d) {
          const float value = book[static_cast<std::size_t>(d * k + j)] = draw();
          book[static_cast<std::size_t>(dim * k + j)] += 0.5F * value * value;
        }
      std::vector<std::int32_t> index(static_cast<std::size_t>(host_lanes(n)) + 1, -7);
      nearest_by_column(n, dim, x.data(), stride, k, book.data(), index.data());
      EXPECT_EQ(index.back(), -7);
      for (std::int64_t i = 0; i < n; ++i) {
        std::int32_t best = -1;
        float least = std::numeric_limits<float>::infinity();
        for (std::int64_t j = 0; j < k; ++j) {
          float distance = 0;
          for (std::int64_t d = 0; d < dim; ++d)
            distance +=
                std::pow(x[static_cast<std::size_t>(d * stride + i)] - book[static_cast<std::size_t>(d * k + j)], 2.0F);
          if (distance < least) {
            least = distance;
            best = static_cast<std::int32_t>(j);
          }
        }
        ASSERT_EQ(index[static_cast<std::size_t>(i)], best) << dim << ", " << n << ", " << i;
      }
    }
}

TEST(HostSearch, ValuesThatAreNotFiniteTakeAnIndexInRange) {
  std::vector<float> x(16, std::numeric_limits<float>::quiet_NaN()), book{1, 2, 0.5F, 2};
  std::vector<std::int32_t> index(16, -7);
  nearest_by_column(16, 1, x.data(), 16, 2, book.data(), index.data());
  for (const std::int32_t i : index) EXPECT_TRUE(i == 0 || i == 1);
}

TEST(HostSearch, ColumnsHavePlaceForWholeVectors) {
  std::vector<float> x(8), book{1, 0.5F};
  std::vector<std::int32_t> index(16);
  EXPECT_THROW(nearest_by_column(8, 1, x.data(), 8, 1, book.data(), index.data()), core::InternalError);
  EXPECT_THROW(nearest_by_column(0, 3, x.data(), 16, 1, book.data(), index.data()), core::InternalError);
}

}  // namespace
}  // namespace voronoi::kernels
