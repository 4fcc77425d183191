// CUDA twin of kernels/vq.h against the CPU twin. The choice of centroids, distances, potentials and block sums are
// computed by the same fp32 chains: they are equal bit by bit. Sums of clusters are fp64 sums of exact products in
// another order: they differ by at most n 2^-52 of the sum of magnitudes.
#include <algorithm>
#include <cmath>
#include <memory>
#include <utility>

#include "gpu/gpu_fixture.h"

namespace voronoi {
namespace {

using test::normal_values;

class VqTest : public test::GpuTest {
 protected:
  struct Found {
    std::vector<std::int32_t> index;
    std::vector<float> distance2;
  };
  Found nearest(backend::Context& context, std::int64_t dim, const std::vector<float>& points,
                const std::vector<float>& centroids, const std::vector<std::int32_t>& valid = {}) {
    const auto n = static_cast<std::int64_t>(points.size()) / dim,
               k = static_cast<std::int64_t>(centroids.size()) / dim;
    const backend::Array<float> x(context, std::span(points)), c(context, std::span(centroids));
    const backend::Array<std::int32_t> limits(context, std::span(valid));
    backend::Array<std::int32_t> index(context, n);
    backend::Array<float> distance2(context, n);
    context.vq().nearest(context.exec(), n, dim, x.data(), k, c.data(), limits.data(), index.data(), distance2.data());
    return {index.to_host(), distance2.to_host()};
  }
  void expect_equal(std::int64_t dim, const std::vector<float>& points, const std::vector<float>& centroids,
                    const std::vector<std::int32_t>& valid = {}) {
    const Found twin = nearest(gpu(), dim, points, centroids, valid),
                oracle = nearest(cpu(), dim, points, centroids, valid);
    EXPECT_EQ(twin.index, oracle.index);
    EXPECT_EQ(twin.distance2, oracle.distance2);
  }
};

TEST_F(VqTest, NearestIsTheCpusForAllDimsAndSizes) {
  std::uint32_t seed = 1;
  for (const std::int64_t dim : {1, 2, 3, 4, 6, 7, 8, 9, 12, 16, 17, 32}) {
    for (const std::int64_t k : {1, 2, 15, 17, 128, 129, 300}) {
      SCOPED_TRACE(testing::Message() << "dim " << dim << " k " << k);
      const std::int64_t n = is_emulated() ? 75 : 5003;
      expect_equal(dim, normal_values(n * dim, seed), normal_values(k * dim, seed + 1));
      seed += 2;
    }
  }
}

TEST_F(VqTest, NearestIsTheCpusForLargeCodebooks) {
  for (const std::int64_t dim : {4, 6, 8, 12}) {
    const std::int64_t n = is_emulated() ? 90 : 20001, k = is_emulated() ? 2049 : 65536;
    SCOPED_TRACE(dim);
    expect_equal(dim, normal_values(n * dim, 5), normal_values(k * dim, 6));
  }
}

// Equal centroids, equal distances: the lowest index wins, wherever the lanes keep it.
TEST_F(VqTest, TiesGoToTheLowestIndex) {
  constexpr std::int64_t kDim = 4;
  std::vector<float> centroids = normal_values(40 * kDim, 7);
  const std::vector<float> once = centroids;
  for (int copy = 0; copy < 12; ++copy) centroids.insert(centroids.end(), once.begin(), once.end());
  const std::vector<float> points = normal_values(100 * kDim, 8);
  expect_equal(kDim, points, centroids);
  for (const std::int32_t j : nearest(gpu(), kDim, points, centroids).index) EXPECT_LT(j, 40);
  // Points on a lattice: many at the same distance from several centroids.
  std::vector<float> lattice(200 * kDim), grid(150 * kDim);
  for (std::size_t i = 0; i < lattice.size(); ++i) lattice[i] = static_cast<float>(i * 7919 % 5) - 2.0F;
  for (std::size_t i = 0; i < grid.size(); ++i) grid[i] = static_cast<float>(i * 104729 % 3) - 1.0F;
  expect_equal(kDim, lattice, grid);
}

// All scores within the rounding of tf32: lanes drop scores that may matter, so the exact search takes over.
TEST_F(VqTest, CentroidsCloserThanTheRoundingOfTensorCores) {
  constexpr std::int64_t kDim = 6;
  std::vector<float> centroids = normal_values(1500 * kDim, 9), points = normal_values(70 * kDim, 10);
  for (float& value : centroids) value = 3.0F + 1e-4F * value;
  for (float& value : points) value = 3.0F + 1e-4F * value;
  expect_equal(kDim, points, centroids);
}

// Magnitudes of twelve decades, zeros, the largest that k-means lets in.
TEST_F(VqTest, NearestOfPointsOfAnySize) {
  constexpr std::int64_t kDim = 8;
  std::vector<float> centroids = normal_values(400 * kDim, 11), points = normal_values(130 * kDim, 12);
  for (std::size_t i = 0; i < centroids.size(); ++i)
    centroids[i] *= std::pow(10.0F, static_cast<float>(i / kDim % 13) - 6);
  for (std::size_t i = 0; i < points.size(); ++i) points[i] *= std::pow(10.0F, static_cast<float>(i / kDim % 13) - 6);
  std::fill_n(points.begin(), kDim, 0.0F);
  std::fill_n(points.begin() + kDim, kDim, 1e15F);
  std::fill_n(points.begin() + 2 * kDim, kDim, -1e15F);
  expect_equal(kDim, points, centroids);
  std::fill_n(centroids.begin() + 37 * kDim, kDim, -1e15F);
  expect_equal(kDim, points, centroids);
}

TEST_F(VqTest, NearestFromAnywhereIsTheCpus) {
  constexpr std::int64_t kDim = 4;
  const std::vector<float> points = normal_values(1000 * kDim, 13), centroids = normal_values(100 * kDim, 14);
  const auto nearest_from = [&](backend::Context& context) {
    const backend::Array<float> x(context, std::span(points)), c(context, std::span(centroids));
    backend::Array<std::int32_t> index(context, std::vector<std::int32_t>(1000, 7));
    backend::Array<float> distance2(context, 1000);
    context.vq().nearest_from(context.exec(), 1000, kDim, x.data(), 100, c.data(), index.data(), distance2.data());
    return std::pair{index.to_host(), distance2.to_host()};
  };
  EXPECT_EQ(nearest_from(gpu()), nearest_from(cpu()));
  EXPECT_EQ(nearest_from(gpu()).first, nearest(cpu(), kDim, points, centroids).index);
}

TEST_F(VqTest, NearestOfTails) {
  std::uint32_t seed = 20;
  for (const std::int64_t dim : {3, 8, 12}) {
    constexpr std::int64_t kPoints = 37;
    std::vector<std::int32_t> valid(kPoints);
    for (std::size_t i = 0; i < valid.size(); ++i)
      valid[i] = static_cast<std::int32_t>(i % static_cast<std::size_t>(dim + 1));
    SCOPED_TRACE(dim);
    expect_equal(dim, normal_values(kPoints * dim, seed), normal_values(300 * dim, seed + 1), valid);
    seed += 2;
  }
}

TEST_F(VqTest, NearestMInOrderOfScore) {
  const auto nearest_m = [](backend::Context& context, std::int64_t dim, std::int64_t m,
                            const std::vector<float>& points, const std::vector<float>& centroids,
                            const std::vector<std::int32_t>& valid) {
    const auto n = static_cast<std::int64_t>(points.size()) / dim,
               k = static_cast<std::int64_t>(centroids.size()) / dim;
    const backend::Array<float> x(context, std::span(points)), c(context, std::span(centroids));
    const backend::Array<std::int32_t> limits(context, std::span(valid));
    backend::Array<std::int32_t> index(context, n * m);
    context.vq().nearest_m(context.exec(), n, dim, x.data(), k, c.data(), limits.data(), m, index.data());
    return index.to_host();
  };
  std::uint32_t seed = 30;
  for (const std::int64_t dim : {4, 6, 12}) {
    for (const std::int64_t m : {1, 5, 8, 16}) {
      SCOPED_TRACE(testing::Message() << "dim " << dim << " m " << m);
      const std::vector<float> points = normal_values(21 * dim, seed);
      std::vector<float> centroids = normal_values(333 * dim, seed + 1);
      std::copy_n(centroids.begin(), 50 * dim, centroids.begin() + 200 * dim);  // ties
      std::vector<std::int32_t> valid(21, static_cast<std::int32_t>(dim));
      EXPECT_EQ(nearest_m(gpu(), dim, m, points, centroids, {}), nearest_m(cpu(), dim, m, points, centroids, {}));
      valid[3] = 1;
      valid[20] = 2;
      EXPECT_EQ(nearest_m(gpu(), dim, m, points, centroids, valid), nearest_m(cpu(), dim, m, points, centroids, valid));
      seed += 2;
    }
  }
}

struct Sums {
  std::vector<double> apart, combined;
};

Sums centroid_sums(backend::Context& context, const std::vector<std::int64_t>& chunk_begin, std::int64_t dim,
                   std::int64_t k, const std::vector<float>& points, const std::vector<float>& weights,
                   const std::vector<std::int32_t>& index, const std::vector<float>& distance2) {
  const auto n_chunks = static_cast<std::int64_t>(chunk_begin.size()) - 1, size = k * (dim + 1) + 1;
  const backend::Array<float> x(context, std::span(points)), w(context, std::span(weights)),
      d2(context, std::span(distance2));
  const backend::Array<std::int32_t> j(context, std::span(index));
  backend::Array<double> apart(context, n_chunks * size), combined(context, size);
  context.vq().centroid_sums(context.exec(), n_chunks, chunk_begin.data(), dim, x.data(), w.data(), j.data(), d2.data(),
                             k, false, apart.data());
  context.vq().centroid_sums(context.exec(), n_chunks, chunk_begin.data(), dim, x.data(), w.data(), j.data(), d2.data(),
                             k, true, combined.data());
  return {apart.to_host(), combined.to_host()};
}

TEST_F(VqTest, CentroidSumsOfChunks) {
  for (const std::int64_t dim : {1, 4, 6, 8, 33}) {
    SCOPED_TRACE(dim);
    const std::int64_t n = 1700, k = 37, size = k * (dim + 1) + 1;
    const std::vector<std::int64_t> chunk_begin = {0, 0, 700, 701, 1700, 1700};
    const std::vector<float> points = normal_values(n * dim, 40);
    std::vector<float> weights = normal_values(n, 41), distance2 = normal_values(n, 42);
    for (float& w : weights) w = std::fabs(w);
    for (float& d : distance2) d *= d;
    std::vector<std::int32_t> index(static_cast<std::size_t>(n));
    // Centroid 5 takes a third of all, some have none.
    for (std::size_t i = 0; i < index.size(); ++i) index[i] = i % 3 == 0 ? 5 : static_cast<std::int32_t>(i * 7919 % 31);
    const Sums twin = centroid_sums(gpu(), chunk_begin, dim, k, points, weights, index, distance2);
    const Sums oracle = centroid_sums(cpu(), chunk_begin, dim, k, points, weights, index, distance2);
    ASSERT_EQ(twin.apart.size(), oracle.apart.size());
    for (std::size_t i = 0; i < twin.apart.size(); ++i) EXPECT_NEAR(twin.apart[i], oracle.apart[i], 1e-10) << i;
    std::vector<double> in_order(static_cast<std::size_t>(size), 0.0);
    for (std::size_t i = 0; i < twin.apart.size(); ++i) in_order[i % in_order.size()] += twin.apart[i];
    EXPECT_EQ(twin.combined, in_order);
    // A member that holds chunks 2 and 3 alone makes the same bits of them.
    const std::vector<std::int64_t> part_begin = {0, 1, 1000};
    const Sums part = centroid_sums(gpu(), part_begin, dim, k, {points.begin() + 700 * dim, points.end()},
                                    {weights.begin() + 700, weights.end()}, {index.begin() + 700, index.end()},
                                    {distance2.begin() + 700, distance2.end()});
    EXPECT_TRUE(std::equal(part.apart.begin(), part.apart.end(), twin.apart.begin() + 2 * size));
  }
}

TEST_F(VqTest, PotentialsAndTheirBlockSums) {
  struct Result {
    std::vector<float> distance2;
    std::vector<double> sums, update, lowered;
  };
  const auto run = [](backend::Context& context, std::int64_t n, std::int64_t dim, std::int64_t n_candidates) {
    const std::vector<float> host_columns = normal_values(n * dim, 50),
                             candidates = normal_values(n_candidates * dim, 51);
    std::vector<float> host_weights = normal_values(n, 52), start(static_cast<std::size_t>(n), INFINITY);
    for (float& w : host_weights) w = std::fabs(w);
    for (std::size_t i = 0; i < start.size(); i += 3) start[i] = 0.5F;
    const std::int64_t blocks = (n + kernels::kPotentialBlock - 1) / kernels::kPotentialBlock;
    const backend::Array<float> columns(context, std::span<const float>(host_columns)),
        weights(context, std::span<const float>(host_weights)), seeds(context, std::span<const float>(candidates));
    backend::Array<float> distance2(context, std::span<const float>(start));
    backend::Array<double> sums(context, blocks * n_candidates), update(context, blocks), lowered(context, blocks);
    const auto& vq = context.vq();
    vq.potentials(context.exec(), n, dim, columns.data(), weights.data(), distance2.data(), n_candidates, seeds.data(),
                  false, sums.data());
    vq.potentials(context.exec(), n, dim, columns.data(), weights.data(), distance2.data(), 1, seeds.data() + dim, true,
                  update.data());
    vq.lower_potentials(context.exec(), n, weights.data(), columns.data() + n, distance2.data(), lowered.data());
    return Result{distance2.to_host(), sums.to_host(), update.to_host(), lowered.to_host()};
  };
  for (const std::int64_t n : {1, 1023, 2500}) {
    SCOPED_TRACE(n);
    const Result twin = run(gpu(), n, 6, 11), oracle = run(cpu(), n, 6, 11);
    EXPECT_EQ(twin.distance2, oracle.distance2);
    EXPECT_EQ(twin.sums, oracle.sums);
    EXPECT_EQ(twin.update, oracle.update);
    EXPECT_EQ(twin.lowered, oracle.lowered);
  }
}

TEST_F(VqTest, UnsoundPointsAreFoundInTheirChunk) {
  constexpr std::int64_t kDim = 3, kPoints = 500;
  const std::vector<std::int64_t> chunk_begin = {0, 100, 100, 250, 400, 450, 500};
  std::vector<float> points = normal_values(kPoints * kDim, 60), weights(kPoints, 1.0F);
  points[120 * kDim + 2] = NAN;
  points[399 * kDim] = -2e15F;
  weights[449] = -1.0F;
  weights[499] = INFINITY;
  const auto check = [&](backend::Context& context) {
    const backend::Array<float> x(context, std::span<const float>(points)), w(context, std::span<const float>(weights));
    const auto sound = std::make_unique<bool[]>(6);
    context.vq().check_points(context.exec(), 6, chunk_begin.data(), kDim, x.data(), w.data(), 1e15F, sound.get());
    return std::vector<bool>(sound.get(), sound.get() + 6);
  };
  EXPECT_EQ(check(gpu()), (std::vector<bool>{true, true, false, false, false, false}));
  EXPECT_EQ(check(gpu()), check(cpu()));
  points[120 * kDim + 2] = 1e15F;
  weights[449] = 0;
  EXPECT_EQ(check(gpu()), (std::vector<bool>{true, true, true, false, true, false}));
}

}  // namespace
}  // namespace voronoi
