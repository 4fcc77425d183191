// Sums of trees over ranks have the same bits on any number of them, and every rank carries its share of the bytes.
#include "calib/rank_sums.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <numeric>

#include "calib/footprint.h"
#include "calib/residual_stream.h"
#include "core/random.h"

namespace voronoi::calib {
namespace {

constexpr std::int64_t kContext = 2048;
constexpr double kHeldOut = 0.125;

class RankSumsTest : public ::testing::Test {
 protected:
  std::vector<double> values(std::int64_t chunk, std::int64_t n) const {
    const core::CounterRandom random(static_cast<std::uint64_t>(chunk) + 1, 5);
    std::vector<double> values(static_cast<std::size_t>(n));
    // Magnitudes far apart, so that another order of additions would show in the bits.
    for (std::size_t i = 0; i < values.size(); ++i)
      values[i] = (random.uniform(i) - 0.5) * std::exp2(static_cast<double>(chunk % 7) * 6);
    return values;
  }

  /// The chunks of n_sequences that are (not) held out, as this communicator's rank has them.
  HessianTree triangles(const comm::Communicator& communicator, std::int64_t n, std::int64_t n_sequences,
                        bool held_out) {
    HessianTree tree(context_, n);
    for (const ChunkRange& chunk : chunks_of_rank(n_sequences, kContext, communicator.rank(), communicator.size()))
      if (is_held_out(chunk.id, kHeldOut) == held_out)
        tree.add_chunk(chunk.id,
                       backend::Array<double>(context_, std::span<const double>(values(chunk.id, tree.n_values()))), 3,
                       chunk.id, {static_cast<double>(chunk.id), 1});
      else
        tree.skip(chunk.id);
    return tree;
  }

  comm::Communicator world_ = comm::Communicator::world(), alone_ = comm::Communicator::alone();
  backend::Context context_{backend::Device::cpu, 1};
};

TEST_F(RankSumsTest, RanksChangeNoBit) {
  RankSums sums(context_, world_), own(context_, alone_);
  // Fewer values than ranks, one chunk, chunks that make no whole tree.
  for (const std::int64_t n : {1, 2, 9, 40})
    for (const std::int64_t n_sequences : {1, 13, 70})
      for (const bool held_out : {false, true}) {
        HessianTree here = triangles(world_, n, n_sequences, held_out),
                    all = triangles(alone_, n, n_sequences, held_out);
        const int root = static_cast<int>(n % world_.size());
        const TreeMean mean = sums.mean(here, root), expected = own.mean(all, 0);
        EXPECT_EQ(here.n_nodes(), 0);
        EXPECT_EQ(mean.counts, expected.counts);
        EXPECT_EQ(mean.n_nodes == 0, expected.n_nodes == 0);
        if (world_.rank() == root) {
          EXPECT_EQ(mean.values, expected.values) << n << " " << n_sequences;
          EXPECT_EQ(mean.weights.sum, expected.weights.sum);
          EXPECT_EQ(mean.weights.squares, expected.weights.squares);
        } else {
          EXPECT_TRUE(mean.values.empty());
        }
      }
}

TEST_F(RankSumsTest, SoDoMatricesAndSumsForAll) {
  RankSums sums(context_, world_), own(context_, alone_);
  const auto fill = [&](const comm::Communicator& communicator, SumTree& tree) {
    for (const ChunkRange& chunk : chunks_of_rank(13, kContext, communicator.rank(), communicator.size()))
      tree.add(chunk.id, backend::Array<double>(context_, std::span<const double>(values(chunk.id, tree.n_values()))));
  };
  CrossTree here(context_, 7), all(context_, 7);
  fill(world_, here);
  fill(alone_, all);
  const int last = world_.size() - 1;
  const TreeMean mean = sums.mean(here, 39, last), expected = own.mean(all, 39, 0);
  if (world_.rank() == last) {
    EXPECT_EQ(mean.values, expected.values);
  }
  for (const std::int64_t n : {0, 1, 100}) {
    SumTree some(context_, n), whole(context_, n);
    fill(world_, some);
    fill(alone_, whole);
    EXPECT_EQ(sums.sum(some), own.sum(whole)) << n;
  }
}

TEST_F(RankSumsTest, MeansAreSumsOverTokens) {
  HessianTree tree = triangles(world_, 3, 5, false);
  const TreeMean mean = RankSums(context_, world_).mean(tree, 0);
  if (world_.rank() != 0) return;
  ASSERT_EQ(mean.values.size(), 6U);
  for (std::size_t i = 0; i < 6; ++i) {
    double sum = 0;
    for (std::int64_t chunk = 0; chunk < 5; ++chunk) sum += values(chunk, 6)[i];
    EXPECT_NEAR(static_cast<double>(mean.values[i]), sum / 15, 1e-6 * std::abs(sum) + 1e-9);
  }
}

TEST_F(RankSumsTest, EveryRankCarriesItsShareAsPlanned) {
  constexpr std::int64_t n = 96, n_sites = 48;
  const HessianKind kind{false, kHeldOut, false, false};
  const model::SiteSpec site{"site", n, {}, -1};
  for (const std::int64_t n_sequences : {64, 128, 80}) {
    RankSums sums(context_, world_);
    for (std::int64_t i = 0; i < n_sites; ++i)
      for (const bool held_out : {false, true}) {
        HessianTree tree = triangles(world_, n, n_sequences, held_out);
        sums.mean(tree, static_cast<int>(i % world_.size()));
      }
    const std::vector<std::int64_t> sent = world_.all_gather_value(sums.traffic().sent),
                                    received = world_.all_gather_value(sums.traffic().received);
    const auto total = [](const std::vector<std::int64_t>& bytes) {
      return std::accumulate(bytes.begin(), bytes.end(), std::int64_t{0});
    };
    EXPECT_EQ(total(sent), total(received));
    if (world_.size() == 1) {
      EXPECT_EQ(total(sent), 0);
      continue;
    }
    const auto most = static_cast<double>(*std::max_element(sent.begin(), sent.end())) / n_sites;
    const double planned =
        static_cast<double>(hessian_bytes(site, kind)) * sent_share(n_sequences, kContext, world_.size(), kind);
    EXPECT_NEAR(most, planned, 0.05 * planned) << n_sequences;
    EXPECT_LT(static_cast<double>(*std::max_element(received.begin(), received.end())),
              1.2 * static_cast<double>(total(received)) / world_.size());
    // A triangle of partial sums: of the chunks that are summed, and of those that are held out.
    if (n_sequences == 64 && world_.size() == 16) {
      EXPECT_LT(most, 2.2 * 8 * static_cast<double>(HessianTree::packed_size(n)));
    }
  }
}

}  // namespace
}  // namespace voronoi::calib
