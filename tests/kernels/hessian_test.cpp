#include <gtest/gtest.h>

#include <vector>

#include "core/thread_pool.h"
#include "kernels/kernels.h"

namespace voronoi::kernels {
namespace {

TEST(Hessian, UnpackingMirrorsTheTriangle) {
  core::ThreadPool pool(2);
  for (const std::int64_t n : {1, 63, 64, 65, 130, 257}) {
    std::vector<float> lower(static_cast<std::size_t>(n * (n + 1) / 2)), matrix(static_cast<std::size_t>(n * n), -1);
    for (std::size_t i = 0; i < lower.size(); ++i) lower[i] = static_cast<float>(i);
    cpu().hessian.unpack({&pool, nullptr}, n, lower.data(), matrix.data());
    for (std::int64_t row = 0; row < n; ++row)
      for (std::int64_t column = 0; column <= row; ++column) {
        const float expected = lower[static_cast<std::size_t>(row * (row + 1) / 2 + column)];
        ASSERT_EQ(matrix[static_cast<std::size_t>(row * n + column)], expected) << n << ": " << row << ", " << column;
        ASSERT_EQ(matrix[static_cast<std::size_t>(column * n + row)], expected) << n << ": " << row << ", " << column;
      }
  }
}

}  // namespace
}  // namespace voronoi::kernels
