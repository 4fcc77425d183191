#include "calib/sum_tree.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>

namespace voronoi::calib {
namespace {

constexpr std::int64_t kLength = 6;

backend::Context& cpu_context() {
  static backend::Context cpu(backend::Device::cpu, 2);
  return cpu;
}

/// Magnitudes far apart, so that another order of additions would show in the bits.
std::vector<float> chunk_values(std::int64_t chunk) {
  std::mt19937_64 generator(static_cast<std::uint64_t>(chunk) + 29);
  std::uniform_real_distribution<float> uniform(-1, 1);
  std::vector<float> values(kLength);
  for (float& value : values) value = uniform(generator) * std::exp2(static_cast<float>(chunk % 7) * 8);
  return values;
}

/// The sum over n_chunks, without those that leave `skipped` when divided by 4, when chunk c is with rank c % ranks.
std::vector<double> sum_divided(std::int64_t n_chunks, std::int64_t ranks, std::int64_t skipped = -1) {
  SumTree total(cpu_context(), kLength);
  for (std::int64_t rank = 0; rank < ranks; ++rank) {
    SumTree mine(cpu_context(), kLength);
    for (std::int64_t chunk = rank; chunk < n_chunks; chunk += ranks)
      if (chunk % 4 == skipped)
        mine.skip(chunk);
      else
        mine.add(chunk, chunk_values(chunk).data(), {1, chunk});
    while (mine.n_nodes() > 0) total.absorb(mine.pop_node());
  }
  if (skipped < 0) {
    EXPECT_EQ(total.counts(), (SumCounts{n_chunks, n_chunks * (n_chunks - 1) / 2}));
  }
  return total.total().to_host();
}

TEST(SumTree, AnyDivisionOverRanksGivesTheSameBits) {
  for (const std::int64_t n_chunks : {1, 2, 5, 8, 13}) {
    const std::vector<double> alone = sum_divided(n_chunks, 1);
    for (const std::int64_t ranks : {2, 3, 4})
      EXPECT_EQ(sum_divided(n_chunks, ranks), alone) << n_chunks << " chunks, " << ranks << " ranks";
    for (std::size_t i = 0; i < alone.size(); ++i) {
      double sum = 0;
      for (std::int64_t chunk = 0; chunk < n_chunks; ++chunk) sum += static_cast<double>(chunk_values(chunk)[i]);
      EXPECT_NEAR(alone[i], sum, 1e-12 * std::fabs(sum) + 1e-3);
    }
  }
}

TEST(SumTree, SkippedChunksLeaveNoGapAndChangeNoBit) {
  for (const std::int64_t n_chunks : {1, 4, 13, 16})
    for (const std::int64_t skipped : {0, 2, 3}) {
      const std::vector<double> alone = sum_divided(n_chunks, 1, skipped);
      for (const std::int64_t ranks : {2, 3, 4}) EXPECT_EQ(sum_divided(n_chunks, ranks, skipped), alone);
      for (std::size_t i = 0; i < alone.size(); ++i) {
        double sum = 0;
        for (std::int64_t chunk = 0; chunk < n_chunks; ++chunk)
          if (chunk % 4 != skipped) sum += static_cast<double>(chunk_values(chunk)[i]);
        EXPECT_NEAR(alone[i], sum, 1e-12 * std::fabs(sum) + 1e-3);
      }
    }
  SumTree tree(cpu_context(), kLength);
  for (std::int64_t chunk = 0; chunk < 8; ++chunk)
    if (chunk == 5)
      tree.add(chunk, chunk_values(chunk).data());
    else
      tree.skip(chunk);
  EXPECT_EQ(tree.n_nodes(), 1);
}

TEST(SumTree, TheMemoryOfMergedNodesIsTakenOver) {
  SumTree tree(cpu_context(), kLength);
  std::vector<const double*> addresses;
  for (std::int64_t chunk = 0; chunk < 2; ++chunk) {
    backend::Array<double> values = tree.room();
    values.zero();
    addresses.push_back(values.data());
    tree.add(chunk, std::move(values));
  }
  EXPECT_EQ(tree.n_nodes(), 1);
  EXPECT_EQ(tree.room().data(), addresses.front());
}

TEST(SumTree, RefusesAChunkTwiceAndVectorsOfAnotherSize) {
  SumTree tree(cpu_context(), kLength);
  tree.add(4, chunk_values(4).data());
  EXPECT_ANY_THROW(tree.add(4, chunk_values(4).data()));
  EXPECT_ANY_THROW(tree.add(5, backend::Array<double>(cpu_context(), kLength + 1)));
  EXPECT_ANY_THROW(tree.absorb({0, 70, {}, {}}));
  EXPECT_ANY_THROW(tree.absorb({0, 0, {}, backend::Array<double>(cpu_context(), kLength + 1)}));
}

}  // namespace
}  // namespace voronoi::calib
