// The sum of a step's gradients has the same bits on any number of ranks, and is the sum.
#include "tune/gradient_sum.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <vector>

#include "tune/loss_sum.h"
#include "tune/sequences.h"

namespace voronoi::tune {
namespace {

std::vector<float> gradient_of(std::int64_t place, std::int64_t n) {
  std::vector<float> gradient;
  for (std::int64_t i = 0; i < n; ++i)
    gradient.push_back(std::sin(static_cast<float>(place * 131 + i * 17)) *
                       std::pow(10.0F, static_cast<float>((place + i) % 7 - 3)));
  return gradient;
}

std::vector<float> total_over(const comm::Communicator& world, backend::Context& context, std::int64_t batch,
                              std::int64_t n) {
  GradientSum sum(context, world);
  const Share share = share_of(batch, world.rank(), world.size());
  for (std::int64_t place = share.first; place < share.last; ++place)
    sum.add(place, backend::Array<float>(context, gradient_of(place, n)));
  std::vector<float> total = sum.total(n);
  // The next step begins empty.
  for (std::int64_t place = share.first; place < share.last; ++place)
    sum.add(place, backend::Array<float>(context, gradient_of(place, n)));
  EXPECT_EQ(sum.total(n), total);
  return total;
}

TEST(GradientSum, RanksChangeNoBit) {
  const comm::Communicator world = comm::Communicator::world();
  backend::Context context(backend::Device::cpu, 1);
  for (const std::int64_t batch : {1, 2, 5, 8, 13}) {
    const std::int64_t n = 1000;
    const std::vector<float> together = total_over(world, context, batch, n),
                             alone = total_over(comm::Communicator::alone(), context, batch, n);
    EXPECT_EQ(together, alone) << "batch " << batch;
    for (std::int64_t i = 0; i < n; ++i) {
      double exact = 0;
      for (std::int64_t place = 0; place < batch; ++place)
        exact += static_cast<double>(gradient_of(place, n)[static_cast<std::size_t>(i)]);
      ASSERT_NEAR(together[static_cast<std::size_t>(i)], exact, 1e-6 * std::abs(exact) + 1e-9);
    }
  }
}

TEST(LossSum, EveryRankKnowsAllNumbersInTheirOrder) {
  const comm::Communicator world = comm::Communicator::world();
  const std::vector<double> mine(static_cast<std::size_t>(world.rank() % 2 + 1), 1.5 * world.rank());
  const std::vector<double> all = all_numbers(world, mine);
  std::size_t at = 0;
  for (int rank = 0; rank < world.size(); ++rank)
    for (int i = 0; i < rank % 2 + 1; ++i) EXPECT_EQ(all.at(at++), 1.5 * rank);
  EXPECT_EQ(at, all.size());
}

}  // namespace
}  // namespace voronoi::tune
