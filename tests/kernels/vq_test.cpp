#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <random>
#include <vector>

#include "core/error.h"
#include "kernels/cpu/vq_simd.h"
#include "kernels/kernels.h"

namespace voronoi::kernels {
namespace {

struct Problem {
  std::int64_t n = 0, dim = 0, k = 0;
  std::vector<float> points, centroids;
  std::vector<std::int32_t> valid;
};

// Multiples of 1/8 in [-2, 2]: scores and distances are exact in float, so a plain loop in double must agree to the
// index, and ties are frequent.
Problem coarse_problem(std::int64_t n, std::int64_t dim, std::int64_t k, std::uint32_t seed) {
  Problem problem{.n = n, .dim = dim, .k = k, .points = {}, .centroids = {}, .valid = {}};
  std::mt19937 engine(seed);
  const auto draw = [&](std::int64_t count, std::vector<float>& out) {
    for (std::int64_t i = 0; i < count; ++i)
      out.push_back(static_cast<float>(static_cast<int>(engine() % 33) - 16) / 8.0F);
  };
  draw(n * dim, problem.points);
  draw(k * dim, problem.centroids);
  for (std::int64_t i = 0; i < n; ++i)
    problem.valid.push_back(i % 3 == 0 ? static_cast<std::int32_t>(engine() % static_cast<std::uint32_t>(dim + 1))
                                       : static_cast<std::int32_t>(dim));
  return problem;
}

double distance(const Problem& problem, std::int64_t i, std::int64_t j, std::int64_t dims) {
  double sum = 0;
  for (std::int64_t d = 0; d < dims; ++d) {
    const double gap = static_cast<double>(problem.points[static_cast<std::size_t>(i * problem.dim + d)]) -
                       static_cast<double>(problem.centroids[static_cast<std::size_t>(j * problem.dim + d)]);
    sum += gap * gap;
  }
  return sum;
}

std::vector<std::int32_t> sorted_centroids(const Problem& problem, std::int64_t i, std::int64_t dims) {
  std::vector<std::int32_t> order(static_cast<std::size_t>(problem.k));
  std::vector<double> gaps;
  for (std::int64_t j = 0; j < problem.k; ++j) gaps.push_back(distance(problem, i, j, dims));
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](std::int32_t a, std::int32_t b) {
    return gaps[static_cast<std::size_t>(a)] < gaps[static_cast<std::size_t>(b)];
  });
  return order;
}

class VqWidth : public testing::TestWithParam<int> {
 protected:
  void SetUp() override { vq::limit_vector_bits(GetParam()); }
  void TearDown() override { vq::limit_vector_bits(-1); }
  core::ThreadPool pool_{2};
  Exec exec_{&pool_, nullptr};
  const VqKernels& kernels_ = cpu().vq;
};

INSTANTIATE_TEST_SUITE_P(Bits, VqWidth, testing::Values(0, 256, 512),
                         [](const auto& width) { return std::to_string(width.param); });

TEST_P(VqWidth, NearestChoosesByHand) {
  const std::vector<float> centroids{0, 0, 3, 4, -1, 0};
  const std::vector<float> points{0.25F, 0, 3, 3, -0.75F, 0.5F, -0.5F, 0};
  std::vector<std::int32_t> index(4);
  std::vector<float> distance2(4);
  kernels_.nearest(exec_, 4, 2, points.data(), 3, centroids.data(), nullptr, index.data(), distance2.data());
  EXPECT_EQ(index, (std::vector<std::int32_t>{0, 1, 2, 0}));  // the last is a tie of 0 and 2
  EXPECT_EQ(distance2, (std::vector<float>{0.0625F, 1, 0.3125F, 0.25F}));
}

TEST_P(VqWidth, ValidDimsLeaveTheRestOut) {
  const std::vector<float> centroids{0, 100, 5, 0};
  const std::vector<float> points{1, 0, 1, 0};
  const std::vector<std::int32_t> valid{2, 1};
  std::vector<std::int32_t> index(2), both(4);
  std::vector<float> distance2(2);
  kernels_.nearest(exec_, 2, 2, points.data(), 2, centroids.data(), valid.data(), index.data(), distance2.data());
  EXPECT_EQ(index, (std::vector<std::int32_t>{1, 0}));
  EXPECT_EQ(distance2, (std::vector<float>{16, 1}));
  kernels_.nearest_m(exec_, 2, 2, points.data(), 2, centroids.data(), valid.data(), 2, both.data());
  EXPECT_EQ(both, (std::vector<std::int32_t>{1, 0, 0, 1}));
}

TEST_P(VqWidth, NearestAgreesWithAPlainLoopOnOddSizes) {
  for (const std::int64_t n : {0, 1, 17, 257, 1041}) {
    for (const std::int64_t k : {1, 2, 3, 17, 256}) {
      if (n > 1000 && k > 17) continue;  // the plain loop's time
      for (std::int64_t dim = 1; dim <= 17; ++dim) {
        const Problem problem = coarse_problem(n, dim, k, static_cast<std::uint32_t>(n * 131 + k * 17 + dim));
        for (const bool tails : {false, true}) {
          std::vector<std::int32_t> index(static_cast<std::size_t>(n), -1);
          std::vector<float> distance2(static_cast<std::size_t>(n), -1);
          kernels_.nearest(exec_, n, dim, problem.points.data(), k, problem.centroids.data(),
                           tails ? problem.valid.data() : nullptr, index.data(), distance2.data());
          for (std::int64_t i = 0; i < n; ++i) {
            const auto at = static_cast<std::size_t>(i);
            const std::int64_t dims = tails ? problem.valid[at] : dim;
            std::int64_t best = 0;
            double least = distance(problem, i, 0, dims);
            for (std::int64_t j = 1; j < k; ++j) {
              const double gap2 = distance(problem, i, j, dims);
              if (gap2 < least) best = j, least = gap2;
            }
            ASSERT_EQ(index[at], best) << "n " << n << " k " << k << " dim " << dim << " point " << i;
            ASSERT_EQ(static_cast<double>(distance2[at]), least);
          }
        }
      }
    }
  }
}

/// nearest_from is nearest to the bit, from good guesses, from random ones and from one centroid for all.
void expect_the_same_from_anywhere(const Exec& exec, std::int64_t dim, const std::vector<float>& points,
                                   const std::vector<float>& centroids) {
  const VqKernels kernels = cpu().vq;
  const auto n = static_cast<std::int64_t>(points.size()) / dim, k = static_cast<std::int64_t>(centroids.size()) / dim;
  const auto size = static_cast<std::size_t>(n);
  std::vector<std::int32_t> expected(size), near(size);
  std::vector<float> expected_distance2(size);
  kernels.nearest(exec, n, dim, points.data(), k, centroids.data(), nullptr, expected.data(),
                  expected_distance2.data());
  std::vector<float> moved = centroids;
  std::mt19937 engine(3);
  for (float& value : moved) value += 0.05F * value * (static_cast<float>(engine() % 1000) / 500.0F - 1);
  kernels.nearest(exec, n, dim, points.data(), k, moved.data(), nullptr, near.data(), nullptr);
  std::vector<std::int32_t> anywhere(size);
  for (std::int32_t& j : anywhere) j = static_cast<std::int32_t>(engine() % static_cast<std::uint32_t>(k));
  for (std::vector<std::int32_t> index : {near, anywhere, std::vector<std::int32_t>(size, 5)}) {
    std::vector<float> distance2(size, -1);
    kernels.nearest_from(exec, n, dim, points.data(), k, centroids.data(), index.data(), distance2.data());
    ASSERT_EQ(index, expected);
    ASSERT_EQ(distance2, expected_distance2);
  }
}

std::vector<float> normal_values(std::int64_t n, std::uint32_t seed) {
  std::mt19937 engine(seed);
  std::normal_distribution<float> normal;
  std::vector<float> values(static_cast<std::size_t>(n));
  for (float& value : values) value = normal(engine);
  return values;
}

TEST_P(VqWidth, NearestFromIsNearestForAllDimsAndSizes) {
  for (const std::int64_t k : {1, 63, 64, 300, 1040})
    for (std::int64_t dim = 1; dim <= 9; ++dim) {
      SCOPED_TRACE(testing::Message() << "k " << k << " dim " << dim);
      const auto seed = static_cast<std::uint32_t>(k * 10 + dim);
      expect_the_same_from_anywhere(exec_, dim, normal_values((4 * k + 77) * dim, seed),
                                    normal_values(k * dim, seed + 1));
    }
  // More than one block of points, more than one range of centroids, cells of more points than are taken at a time.
  expect_the_same_from_anywhere(exec_, 2, normal_values(40000 * 2, 1), normal_values(70 * 2, 2));
  expect_the_same_from_anywhere(exec_, 4, normal_values(9000 * 4, 3), normal_values(2000 * 4, 4));
}

TEST_P(VqWidth, NearestFromLeavesTiesToTheLowestIndex) {
  const Problem coarse = coarse_problem(3000, 4, 200, 11);
  expect_the_same_from_anywhere(exec_, 4, coarse.points, coarse.centroids);
  std::vector<float> repeated = normal_values(64 * 3, 5);
  for (int copy = 0; copy < 3; ++copy) repeated.insert(repeated.end(), repeated.begin(), repeated.begin() + 64 * 3);
  expect_the_same_from_anywhere(exec_, 3, normal_values(2000 * 3, 6), repeated);
  expect_the_same_from_anywhere(exec_, 3, repeated, std::vector<float>(repeated.begin(), repeated.begin() + 64 * 3));
}

TEST_P(VqWidth, NearestFromOfAnySizeAndFarFromTheOrigin) {
  constexpr std::int64_t kDim = 6;
  std::vector<float> points = normal_values(2000 * kDim, 7), centroids = normal_values(200 * kDim, 8);
  std::vector<float> far_points = points, far_centroids = centroids;
  for (float& value : far_points) value = 3 + 1e-4F * value;
  for (float& value : far_centroids) value = 3 + 1e-4F * value;
  expect_the_same_from_anywhere(exec_, kDim, far_points, far_centroids);
  for (const float unit : {1e-22F, 1e-18F, 1e-12F, 1e12F}) {
    std::vector<float> small = points, book = centroids;
    for (float& value : small) value *= unit;
    for (float& value : book) value *= unit;
    expect_the_same_from_anywhere(exec_, kDim, small, book);
  }
  for (std::size_t i = 0; i < centroids.size(); ++i)
    centroids[i] *= std::pow(10.0F, static_cast<float>(i / kDim % 13) - 6);
  for (std::size_t i = 0; i < points.size(); ++i) points[i] *= std::pow(10.0F, static_cast<float>(i / kDim % 13) - 6);
  std::fill_n(points.begin(), kDim, 0.0F);
  std::fill_n(points.begin() + kDim, kDim, 1e15F);
  std::fill_n(centroids.begin() + 37 * kDim, kDim, -1e15F);
  expect_the_same_from_anywhere(exec_, kDim, points, centroids);
}

TEST_P(VqWidth, NearestMAgreesWithSortingOnOddSizes) {
  for (const std::int64_t k : {1, 2, 3, 17, 256, 1500}) {
    for (const std::int64_t dim : {1, 2, 4, 6, 8, 9, 17}) {
      const std::int64_t n = k > 1000 ? 41 : 131;
      const Problem problem = coarse_problem(n, dim, k, static_cast<std::uint32_t>(k * 17 + dim));
      for (const std::int64_t m : {1, 2, 5, 8, 16}) {
        if (m > k) continue;
        for (const bool tails : {false, true}) {
          std::vector<std::int32_t> index(static_cast<std::size_t>(n * m), -1);
          kernels_.nearest_m(exec_, n, dim, problem.points.data(), k, problem.centroids.data(),
                             tails ? problem.valid.data() : nullptr, m, index.data());
          for (std::int64_t i = 0; i < n; ++i) {
            const auto order = sorted_centroids(problem, i, tails ? problem.valid[static_cast<std::size_t>(i)] : dim);
            for (std::int64_t r = 0; r < m; ++r)
              ASSERT_EQ(index[static_cast<std::size_t>(i * m + r)], order[static_cast<std::size_t>(r)])
                  << "k " << k << " dim " << dim << " m " << m << " point " << i << " rank " << r;
          }
        }
      }
    }
  }
}

TEST_P(VqWidth, PointsThatAreNotFiniteStillGetValidIndices) {
  const float bad = std::numeric_limits<float>::quiet_NaN();
  const std::vector<float> points{bad, bad, 1, 1, std::numeric_limits<float>::infinity(), 0};
  const std::vector<float> centroids{0, 0, 1, 1, 2, 2};
  std::vector<std::int32_t> index(3, -1), two(6, -1);
  kernels_.nearest(exec_, 3, 2, points.data(), 3, centroids.data(), nullptr, index.data(), nullptr);
  kernels_.nearest_m(exec_, 3, 2, points.data(), 3, centroids.data(), nullptr, 2, two.data());
  for (const std::int32_t i : index) EXPECT_TRUE(i >= 0 && i < 3);
  for (const std::int32_t i : two) EXPECT_TRUE(i >= 0 && i < 3);
  EXPECT_EQ(index[1], 1);
}

TEST_P(VqWidth, CentroidSumsByHand) {
  const std::vector<float> points{1, 2, 3, 4, 5, 6, 7, 8}, weights{2, 0.5F, 1, 3}, distance2{1, 2, 3, 4};
  const std::vector<std::int32_t> index{1, 0, 1, 0};
  const std::vector<std::int64_t> chunk_begin{0, 3, 3, 4};  // the second is empty
  std::vector<double> parts(21, -1), whole(7, -1);
  kernels_.centroid_sums(exec_, 3, chunk_begin.data(), 2, points.data(), weights.data(), index.data(), distance2.data(),
                         2, false, parts.data());
  EXPECT_EQ(parts, (std::vector<double>{1.5, 2, 7, 10, 0.5, 3, 6, 0, 0, 0, 0, 0, 0, 0, 21, 24, 0, 0, 3, 0, 12}));
  kernels_.centroid_sums(exec_, 3, chunk_begin.data(), 2, points.data(), weights.data(), index.data(), distance2.data(),
                         2, true, whole.data());
  EXPECT_EQ(whole, (std::vector<double>{22.5, 26, 7, 10, 3.5, 3, 18}));
}

TEST_P(VqWidth, LoweredPotentialsByHand) {
  // Two blocks of 1,024 and 1.
  const std::size_t n = 1025;
  const std::vector<float> weights(n, 0.5F);
  std::vector<float> distance2(n, 2.0F), other(n, 4.0F);
  other[3] = 0;
  other[1024] = 1;
  std::vector<double> sums(2);
  kernels_.lower_potentials(exec_, 1025, weights.data(), other.data(), distance2.data(), sums.data());
  EXPECT_EQ(sums, (std::vector<double>{1023, 0.5}));
  EXPECT_EQ(distance2[3], 0);
  EXPECT_EQ(distance2[4], 2);
  EXPECT_EQ(distance2[1024], 1);
}

TEST_P(VqWidth, UnsoundPointsAreFoundChunkByChunk) {
  const float nan = std::numeric_limits<float>::quiet_NaN(), infinity = std::numeric_limits<float>::infinity();
  const std::vector<std::int64_t> chunk_begin{0, 1, 2, 2, 3, 4, 5};
  const std::vector<float> points{1, -10, nan, 1, 1, 10.5F, 0, 0, 0, 0}, weights{0, 1, 1, -1, infinity};
  bool sound[6];
  kernels_.check_points(exec_, 6, chunk_begin.data(), 2, points.data(), weights.data(), 10, sound);
  EXPECT_THAT(sound, testing::ElementsAre(true, false, true, false, false, false));
}

TEST_P(VqWidth, PotentialsByHand) {
  // 1,041 points at x = i % 3 of weight 2, distance so far 1: two blocks of 1,024 and 17.
  const std::int64_t n = 1041;
  std::vector<float> columns, weights(static_cast<std::size_t>(n), 2.0F), distance2(static_cast<std::size_t>(n), 1.0F);
  for (std::int64_t i = 0; i < n; ++i) columns.push_back(static_cast<float>(i % 3));
  const std::vector<float> candidates{0, 1.5F};
  std::vector<double> sums(4);
  kernels_.potentials(exec_, n, 1, columns.data(), weights.data(), distance2.data(), 2, candidates.data(), false,
                      sums.data());
  // Blocks hold 342, 341, 341 and 5, 6, 6 points at 0, 1, 2; the second starts at 1024 % 3 = 1.
  EXPECT_EQ(sums, (std::vector<double>{2 * 682, 2 * (342 + 0.25 * 682), 2 * 12, 2 * (5 + 0.25 * 12)}));
  EXPECT_EQ(distance2, std::vector<float>(static_cast<std::size_t>(n), 1.0F));
  std::vector<double> one(2);
  kernels_.potentials(exec_, n, 1, columns.data(), weights.data(), distance2.data(), 1, candidates.data(), true,
                      one.data());
  EXPECT_EQ(one, (std::vector<double>{2 * 682, 2 * 12}));
  for (std::int64_t i = 0; i < n; ++i) EXPECT_EQ(distance2[static_cast<std::size_t>(i)], i % 3 == 0 ? 0.0F : 1.0F);
}

struct Answer {
  std::vector<std::int32_t> index, several;
  std::vector<float> distance2;
  std::vector<double> sums, potentials;
  bool operator==(const Answer&) const = default;
};

Answer solve(int bits, int threads, std::int64_t dim) {
  vq::limit_vector_bits(bits);
  const std::int64_t n = 3001, k = 300, m = 4;
  std::mt19937 engine(7);
  std::normal_distribution<float> normal;
  std::vector<float> points(static_cast<std::size_t>(n * dim)), centroids(static_cast<std::size_t>(k * dim));
  for (float& x : points) x = normal(engine);
  for (float& x : centroids) x = normal(engine);
  core::ThreadPool pool(threads);
  const Exec exec{&pool, nullptr};
  Answer answer{std::vector<std::int32_t>(static_cast<std::size_t>(n)),
                std::vector<std::int32_t>(static_cast<std::size_t>(n * m)),
                std::vector<float>(static_cast<std::size_t>(n)),
                std::vector<double>(static_cast<std::size_t>(k * (dim + 1) + 1)), std::vector<double>(3 * 5)};
  cpu().vq.nearest(exec, n, dim, points.data(), k, centroids.data(), nullptr, answer.index.data(),
                   answer.distance2.data());
  cpu().vq.nearest_m(exec, n, dim, points.data(), k, centroids.data(), nullptr, m, answer.several.data());
  const std::vector<std::int64_t> chunk_begin{0, 1000, n};
  cpu().vq.centroid_sums(exec, 2, chunk_begin.data(), dim, points.data(), answer.distance2.data(), answer.index.data(),
                         answer.distance2.data(), k, true, answer.sums.data());
  // Any numbers will do for columns and weights.
  const std::vector<float> some = answer.distance2;
  cpu().vq.potentials(exec, n, dim, points.data(), some.data(), answer.distance2.data(), 5, centroids.data(), false,
                      answer.potentials.data());
  cpu().vq.potentials(exec, n, dim, points.data(), some.data(), answer.distance2.data(), 1, centroids.data(), true,
                      answer.potentials.data());
  vq::limit_vector_bits(-1);
  return answer;
}

TEST(Vq, BytesDoNotDependOnVectorWidthOrThreads) {
  for (const std::int64_t dim : {3, 4, 8, 13}) {
    const Answer reference = solve(0, 1, dim);
    for (const int bits : {256, 512})
      for (const int threads : {1, 2, 3})
        EXPECT_EQ(solve(bits, threads, dim), reference) << bits << " bits, " << threads << " threads";
  }
}

// Bound of the header for data of size 1: the chosen centroid is nearest up to 4 (dim + 1) u (|c|^2 / 2 + |x| |c|).
TEST(Vq, ChoiceIsNearestWithinTheStatedBound) {
  const std::int64_t n = 4000, k = 512;
  std::mt19937 engine(11);
  std::normal_distribution<float> normal;
  core::ThreadPool pool(2);
  for (const std::int64_t dim : {2, 4, 8, 16}) {
    Problem problem{.n = n,
                    .dim = dim,
                    .k = k,
                    .points = std::vector<float>(static_cast<std::size_t>(n * dim)),
                    .centroids = std::vector<float>(static_cast<std::size_t>(k * dim)),
                    .valid = {}};
    for (float& x : problem.points) x = normal(engine);
    for (float& x : problem.centroids) x = normal(engine);
    std::vector<std::int32_t> index(static_cast<std::size_t>(n));
    cpu().vq.nearest(Exec{&pool, nullptr}, n, dim, problem.points.data(), k, problem.centroids.data(), nullptr,
                     index.data(), nullptr);
    double largest = 0;
    for (const std::vector<float>* rows : {&problem.points, &problem.centroids}) {
      for (std::size_t row = 0; row < rows->size(); row += static_cast<std::size_t>(dim)) {
        double norm2 = 0;
        for (std::size_t d = row; d < row + static_cast<std::size_t>(dim); ++d)
          norm2 += std::pow(static_cast<double>((*rows)[d]), 2);
        largest = std::max(largest, norm2);
      }
    }
    const double bound = 4.0 * static_cast<double>(dim + 1) * 0x1p-24 * 1.5 * largest;
    for (std::int64_t i = 0; i < n; ++i) {
      double best = std::numeric_limits<double>::infinity();
      for (std::int64_t j = 0; j < k; ++j) best = std::min(best, distance(problem, i, j, dim));
      ASSERT_LE(distance(problem, i, index[static_cast<std::size_t>(i)], dim), best + bound);
    }
  }
}

TEST(Vq, BrokenContractsAreRefused) {
  core::ThreadPool pool(1);
  const Exec exec{&pool, nullptr};
  const std::vector<float> values(8);
  std::vector<std::int32_t> index(64);
  const std::vector<std::int32_t> valid{3}, beyond{2};
  const std::vector<std::int64_t> chunk_begin{0, 1};
  double sums[7] = {};
  EXPECT_THROW(cpu().vq.nearest(exec, 1, 2, values.data(), 0, values.data(), nullptr, index.data(), nullptr),
               core::InternalError);
  EXPECT_THROW(cpu().vq.nearest(exec, 1, 2, values.data(), 2, values.data(), valid.data(), index.data(), nullptr),
               core::InternalError);
  EXPECT_THROW(cpu().vq.nearest_m(exec, 1, 2, values.data(), 2, values.data(), nullptr, 3, index.data()),
               core::InternalError);
  EXPECT_THROW(cpu().vq.nearest_m(exec, 1, 1, values.data(), 8, values.data(), nullptr, 17, index.data()),
               core::InternalError);
  EXPECT_THROW(cpu().vq.centroid_sums(exec, 1, chunk_begin.data(), 2, values.data(), values.data(), beyond.data(),
                                      values.data(), 2, true, sums),
               core::InternalError);
}

}  // namespace
}  // namespace voronoi::kernels
