#include "calib/hessian_tree.h"

#include <gtest/gtest.h>

#include <random>

#include "support/tree_mean.h"

namespace voronoi::calib {
namespace {

constexpr std::int64_t kOrder = 5;

backend::Context& context() {
  static backend::Context cpu(backend::Device::cpu, 2);
  return cpu;
}

backend::Array<double> array(const std::vector<double>& values) {
  return backend::Array<double>(context(), std::span<const double>(values));
}

backend::Array<double> chunk_sum(std::int64_t chunk) {
  std::mt19937_64 generator(static_cast<std::uint64_t>(chunk) + 17);
  std::uniform_real_distribution<double> uniform(-1, 1);
  std::vector<double> sum(static_cast<std::size_t>(HessianTree::packed_size(kOrder) + 2));
  // Magnitudes far apart, so that another order of additions would show in the bits.
  for (double& value : sum) value = uniform(generator) * std::exp2(static_cast<double>(chunk % 7) * 6);
  return array(sum);
}

/// The mean over n_chunks when they are divided over `ranks` whose nodes meet.
std::vector<float> divided(std::int64_t n_chunks, std::int64_t ranks) {
  HessianTree total(context(), kOrder);
  for (std::int64_t rank = ranks - 1; rank >= 0; --rank) {  // arrival order must not matter
    HessianTree mine(context(), kOrder);
    for (std::int64_t chunk = n_chunks * rank / ranks; chunk < n_chunks * (rank + 1) / ranks; ++chunk)
      mine.add_chunk(chunk, chunk_sum(chunk), 3);
    while (mine.n_nodes() > 0) total.absorb(mine.pop_node());
  }
  const TreeMean mean = test::mean_of(context(), total);
  EXPECT_EQ(HessianTree::n_tokens(mean.counts), 3 * n_chunks);
  EXPECT_EQ(total.n_nodes(), 0);
  return mean.values;
}

TEST(HessianTree, AnyDivisionOverRanksGivesTheSameBits) {
  for (const std::int64_t n_chunks : {1, 2, 3, 7, 12, 64}) {
    const std::vector<float> alone = divided(n_chunks, 1);
    for (const std::int64_t ranks : {2, 3, 5, 8})
      EXPECT_EQ(divided(n_chunks, ranks), alone) << n_chunks << " chunks, " << ranks << " ranks";
  }
}

TEST(HessianTree, MeanIsTheSumOverTokens) {
  HessianTree tree(context(), 2);
  tree.add_chunk(0, array({2, 4, 6, 0, 0}), 2);
  tree.add_chunk(1, array({1, 1, 3, 0, 0}), 1);
  EXPECT_EQ(test::mean_of(context(), tree).values, (std::vector<float>{1, 5.0F / 3, 3}));
}

TEST(HessianTree, KeepsFewNodes) {
  HessianTree tree(context(), 1);
  for (std::int64_t chunk = 0; chunk < 63; ++chunk) tree.add_chunk(chunk, array({1, 0, 0}), 1);
  EXPECT_EQ(tree.n_nodes(), 6);
  for (std::int64_t left = 6; left > 0; --left) tree.pop_node();
  EXPECT_EQ(tree.n_nodes(), 0);
  EXPECT_ANY_THROW(tree.pop_node());
}

TEST(HessianTree, RefusesAChunkTwiceAndDamagedBytes) {
  HessianTree tree(context(), 1);
  tree.add_chunk(4, array({1, 0, 0}), 1);
  EXPECT_ANY_THROW(tree.add_chunk(4, array({1, 0, 0}), 1));
  EXPECT_ANY_THROW(tree.add_chunk(5, array({1, 2}), 1));
  EXPECT_ANY_THROW(tree.absorb({-1, 0, {}, {}}));
}

}  // namespace
}  // namespace voronoi::calib
