#include "quant/vq/kmeans.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>

#include "backend/tensor.h"
#include "core/error.h"
#include "support/data.h"
#include "support/safetensors_lite.h"
#include "support/thread_team.h"

namespace voronoi::quant {
namespace {

using testing::ElementsAre;
using testing::FloatNear;
using testing::Pointwise;

struct Data {
  std::int64_t dim = 0;
  std::vector<float> points, weights;
  std::int64_t n() const { return static_cast<std::int64_t>(weights.size()); }
};

// Gaussian points with weights spread over two decades.
Data gaussian(std::int64_t n, std::int64_t dim, std::uint32_t seed) {
  std::mt19937 engine(seed);
  std::normal_distribution<float> normal;
  Data data{dim, std::vector<float>(static_cast<std::size_t>(n * dim)),
            std::vector<float>(static_cast<std::size_t>(n))};
  for (float& x : data.points) x = normal(engine);
  for (float& w : data.weights) w = std::exp(normal(engine));
  return data;
}

/// The member's contiguous share of n_chunks uneven chunks, in the memory of its context.
KmeansResult solve_share(backend::Context& context, core::Team& team, const Data& data, std::int64_t n_chunks,
                         const KmeansParameters& parameters) {
  const auto cut = [&](std::int64_t chunk) { return data.n() * chunk * chunk / (n_chunks * n_chunks); };
  const std::int64_t first = n_chunks * team.rank() / team.size(), last = n_chunks * (team.rank() + 1) / team.size();
  std::vector<std::int64_t> chunk_begin;
  for (std::int64_t chunk = first; chunk <= last; ++chunk) chunk_begin.push_back(cut(chunk) - cut(first));
  const auto rows = [&](const std::vector<float>& values, std::int64_t dim) {
    return std::span(values).subspan(static_cast<std::size_t>(cut(first) * dim),
                                     static_cast<std::size_t>(chunk_begin.back() * dim));
  };
  const backend::Array<float> points(context, rows(data.points, data.dim)), weights(context, rows(data.weights, 1));
  return kmeans(context, team, n_chunks, {first, chunk_begin, points.data(), weights.data()}, parameters);
}

KmeansResult solve(const Data& data, const KmeansParameters& parameters, std::int64_t n_chunks = 1, int threads = 2) {
  backend::Context context(backend::Device::cpu, threads);
  core::SoloTeam team;
  return solve_share(context, team, data, n_chunks, parameters);
}

double objective_of(const Data& data, const std::vector<float>& centroids) {
  double sum = 0;
  for (std::int64_t i = 0; i < data.n(); ++i) {
    double best = std::numeric_limits<double>::infinity();
    for (std::size_t c = 0; c < centroids.size(); c += static_cast<std::size_t>(data.dim)) {
      double gap2 = 0;
      for (std::int64_t d = 0; d < data.dim; ++d)
        gap2 += std::pow(static_cast<double>(data.points[static_cast<std::size_t>(i * data.dim + d)]) -
                             static_cast<double>(centroids[c + static_cast<std::size_t>(d)]),
                         2);
      best = std::min(best, gap2);
    }
    sum += static_cast<double>(data.weights[static_cast<std::size_t>(i)]) * best;
  }
  return sum;
}

TEST(Kmeans, OneWeightedStepByHand) {
  const Data data{1, {0, 1, 10, 14}, {3, 1, 1, 3}};
  const std::vector<float> initial{0, 12};
  const KmeansResult result = solve(data, {.k = 2, .dim = 1, .max_iterations = 1, .initial = initial});
  EXPECT_THAT(result.centroids, ElementsAre(0.25F, 13.0F));
  EXPECT_THAT(result.objective, ElementsAre(1 + 4 + 12, 3 * 0.0625 + 0.5625 + 9 + 3));
  EXPECT_EQ(result.iterations, 1);
  EXPECT_EQ(result.repaired, 0);
}

TEST(Kmeans, StopsWhenTheObjectiveNoLongerFalls) {
  const Data data{1, {0, 1, 10, 14}, {3, 1, 1, 3}};
  const std::vector<float> initial{0, 12};
  const KmeansResult result = solve(data, {.k = 2, .dim = 1, .max_iterations = 50, .initial = initial});
  EXPECT_TRUE(result.converged);
  EXPECT_EQ(result.iterations, 2);
  ASSERT_EQ(result.objective.size(), 3U);
  EXPECT_EQ(result.objective[1], result.objective[2]);
}

TEST(Kmeans, AStopIsSeenInEveryStepAlsoOfThoseOnTheSample) {
  const Data data = gaussian(3000, 4, 7);
  backend::Context context(backend::Device::cpu, 1);
  core::SoloTeam team;
  int n_asked = 0;
  team.stop_when([&] { return ++n_asked < 0; });
  const KmeansResult whole = solve_share(context, team, data, 1, {.k = 16, .dim = 4, .max_iterations = 5});
  EXPECT_GT(n_asked, whole.iterations);
  const int n_all = n_asked;
  for (const int last : {1, n_all / 2, n_all}) {
    n_asked = 0;
    team.stop_when([&] { return ++n_asked == last; });
    EXPECT_THROW(solve_share(context, team, data, 1, {.k = 16, .dim = 4, .max_iterations = 5}), core::StopRequested);
  }
}

TEST(Kmeans, NoStepLeavesTheInitialCentroids) {
  const Data data{1, {0, 1}, {1, 1}};
  const std::vector<float> initial{5};
  const KmeansResult result = solve(data, {.k = 1, .dim = 1, .max_iterations = 0, .initial = initial});
  EXPECT_EQ(result.centroids, initial);
  EXPECT_THAT(result.objective, ElementsAre(25 + 16));
}

TEST(Kmeans, AgreesWithScikitLearn) {
  VORONOI_NEEDS_DATA("quantizer-steps/kmeans.safetensors");
  const test::SafetensorsLite golden(test::data_path("quantizer-steps/kmeans.safetensors"));
  const Data data{4, golden.f32("points"), golden.f32("weights")};
  const std::vector<float> initial = golden.f32("initial");
  for (const int iterations : {1, 10}) {
    const KmeansResult result =
        solve(data, {.k = 32, .dim = 4, .max_iterations = iterations, .tolerance = 0, .initial = initial}, 5);
    EXPECT_EQ(result.iterations, iterations);
    EXPECT_EQ(result.repaired, 0);
    EXPECT_THAT(result.centroids,
                Pointwise(FloatNear(1e-5F), golden.f32("centers_after_" + std::to_string(iterations))));
  }
}

TEST(Kmeans, ObjectiveIsTheWeightedErrorAndNeverRises) {
  const Data data = gaussian(5000, 3, 1);
  const KmeansResult result = solve(data, {.k = 40, .dim = 3, .max_iterations = 30, .tolerance = 1e-6}, 7);
  ASSERT_EQ(result.objective.size(), static_cast<std::size_t>(result.iterations) + 1);
  for (std::size_t t = 1; t < result.objective.size(); ++t)
    EXPECT_LE(result.objective[t], result.objective[t - 1] * (1 + 1e-7));
  EXPECT_NEAR(result.objective.back(), objective_of(data, result.centroids), 1e-5 * result.objective.back());
}

// 40,000 points for 64 centroids: more than the sample holds, so sampling, seeding and the steps on the sample all take
// part.
TEST(Kmeans, BytesDoNotDependOnThreadsOrTeam) {
  const Data data = gaussian(40000, 4, 2);
  const std::int64_t n_chunks = 7;
  const KmeansParameters parameters{.k = 64, .dim = 4, .max_iterations = 6, .tolerance = 0, .seed = 3, .stream = 9};
  const KmeansResult reference = solve(data, parameters, n_chunks, 1);
  ASSERT_EQ(reference.iterations, 6);
  for (const int threads : {2, 3}) {
    const KmeansResult result = solve(data, parameters, n_chunks, threads);
    EXPECT_EQ(result.centroids, reference.centroids) << threads;
    EXPECT_EQ(result.objective, reference.objective) << threads;
  }
  for (const int size : {1, 2, 3}) {
    test::run_as_team(size, [&](core::Team& team) {
      backend::Context context(backend::Device::cpu, 1 + team.rank() % 2);
      const KmeansResult result = solve_share(context, team, data, n_chunks, parameters);
      EXPECT_EQ(result.centroids, reference.centroids) << "member " << team.rank() << " of " << size;
      EXPECT_EQ(result.objective, reference.objective) << "member " << team.rank() << " of " << size;
    });
  }
}

TEST(Kmeans, RepairDoesNotDependOnTheTeam) {
  const Data data = gaussian(3000, 2, 4);
  std::vector<float> initial(32, 100.0F);  // fifteen of sixteen are copies that no point chooses
  initial[0] = initial[1] = 0;
  const KmeansParameters parameters{.k = 16, .dim = 2, .max_iterations = 20, .tolerance = 0, .initial = initial};
  const KmeansResult reference = solve(data, parameters, 6, 1);
  EXPECT_GE(reference.repaired, 15);
  EXPECT_LT(reference.objective.back(), 0.15 * reference.objective.front());
  test::run_as_team(3, [&](core::Team& team) {
    backend::Context context(backend::Device::cpu, 1);
    const KmeansResult result = solve_share(context, team, data, 6, parameters);
    EXPECT_EQ(result.centroids, reference.centroids);
    EXPECT_EQ(result.repaired, reference.repaired);
  });
}

TEST(Kmeans, EmptyClusterGoesToThePointOfLargestWeightedError) {
  const Data data{1, {0, 1, 2, 20, 30}, {1, 1, 1, 9, 1}};
  const std::vector<float> initial{1, -50};
  const KmeansResult result = solve(data, {.k = 2, .dim = 1, .max_iterations = 1, .initial = initial}, 2);
  EXPECT_EQ(result.repaired, 1);
  EXPECT_EQ(result.centroids[1], 20.0F);  // 9 * 19^2 > 29^2
}

TEST(Kmeans, SeedAndStreamChangeTheStartOnly) {
  const Data data = gaussian(4000, 2, 5);
  KmeansParameters parameters{.k = 24, .dim = 2};
  const KmeansResult a = solve(data, parameters);
  EXPECT_EQ(solve(data, parameters).centroids, a.centroids);
  parameters.stream = 1;
  const KmeansResult b = solve(data, parameters);
  EXPECT_NE(a.centroids, b.centroids);
  EXPECT_NEAR(a.objective.back(), b.objective.back(), 0.1 * a.objective.back());
}

TEST(Kmeans, WellSeparatedClustersAreAllFound) {
  Data data{2, {}, {}};
  std::mt19937 engine(6);
  std::normal_distribution<float> normal(0, 0.01F);
  for (int i = 0; i < 2500; ++i) {
    data.points.push_back(static_cast<float>(i % 5) + normal(engine));
    data.points.push_back(static_cast<float>(i / 5 % 5) + normal(engine));
    data.weights.push_back(1);
  }
  for (std::uint64_t seed = 0; seed < 8; ++seed) {
    const KmeansResult result =
        solve(data, {.k = 40, .dim = 2, .seed = seed});  // 40 for 25: each blob is sure to get one
    EXPECT_LT(result.objective.back(), 2 * 2500 * 1e-4);
  }
}

TEST(Kmeans, WeightlessPointsHaveNoSay) {
  Data data = gaussian(1000, 2, 8), more = data;
  for (int i = 0; i < 500; ++i) {
    more.points.insert(more.points.end(), {50.0F, -70.0F});
    more.weights.push_back(0);
  }
  for (const std::vector<float>& centroids :
       {solve(more, {.k = 8, .dim = 2}).centroids, solve(more, {.k = 900, .dim = 2, .max_iterations = 5}).centroids})
    for (const float c : centroids) EXPECT_LT(std::fabs(c), 10.0F);
}

TEST(Kmeans, FewerDistinctPointsThanCentroidsRepeatsPoints) {
  Data data{2, {}, {}};
  for (int i = 0; i < 300; ++i) {
    data.points.insert(data.points.end(), {static_cast<float>(i % 3), 0.1F});
    data.weights.push_back(0.3F);
  }
  const KmeansResult result = solve(data, {.k = 16, .dim = 2}, 4);
  EXPECT_EQ(result.objective.back(), 0);
  EXPECT_TRUE(result.converged);
  for (std::size_t c = 0; c < result.centroids.size(); c += 2) {
    EXPECT_THAT(result.centroids[c], testing::AnyOf(0.0F, 1.0F, 2.0F));
    EXPECT_EQ(result.centroids[c + 1], 0.1F);
  }
}

TEST(Kmeans, OnePointAndEmptyChunksAreEnough) {
  const Data data{3, {1, 2, 3}, {5}};
  const KmeansResult result = solve(data, {.k = 4, .dim = 3}, 3);
  EXPECT_THAT(result.centroids, ElementsAre(1, 2, 3, 1, 2, 3, 1, 2, 3, 1, 2, 3));
  EXPECT_EQ(result.objective.back(), 0);
}

TEST(Kmeans, AllWeightsZeroChoosesSomePoints) {
  Data data = gaussian(100, 2, 9);
  std::fill(data.weights.begin(), data.weights.end(), 0.0F);
  const KmeansResult result = solve(data, {.k = 5, .dim = 2}, 3);
  EXPECT_EQ(result.objective.back(), 0);
  EXPECT_TRUE(result.converged);
  for (const float c : result.centroids) EXPECT_TRUE(std::isfinite(c));
}

TEST(Kmeans, ManyCentroidsAreDrawnInRounds) {
  const Data data = gaussian(9000, 2, 10);
  const KmeansResult result = solve(data, {.k = 1500, .dim = 2, .max_iterations = 10});
  Data random = data;
  random.points.resize(3000);
  EXPECT_LT(result.objective.front(), 0.8 * objective_of(data, random.points));  // 1,500 points as they come
  EXPECT_LT(result.objective.back(), result.objective.front());
}

TEST(Kmeans, EveryMemberRefusesPointsThatAreNotFinite) {
  Data data = gaussian(60, 2, 11);
  data.points[5] = std::numeric_limits<float>::quiet_NaN();
  int refused = 0;
  std::mutex mutex;
  test::run_as_team(3, [&](core::Team& team) {
    backend::Context context(backend::Device::cpu, 1);
    try {
      solve_share(context, team, data, 6, {.k = 2, .dim = 2});
    } catch (const core::NumericError& error) {
      EXPECT_THAT(error.what(), testing::HasSubstr("chunk 1"));
      const std::lock_guard lock(mutex);
      ++refused;
    }
  });
  EXPECT_EQ(refused, 3);
  data = gaussian(60, 2, 11);
  data.weights[59] = -1;
  EXPECT_THROW(solve(data, {.k = 2, .dim = 2}), core::NumericError);
  EXPECT_THROW(solve(Data{2, {}, {}}, {.k = 2, .dim = 2}), core::NumericError);
}

}  // namespace
}  // namespace voronoi::quant
