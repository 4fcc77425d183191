#include "core/work_counts.h"

#include <gtest/gtest.h>

#include <set>
#include <thread>
#include <vector>

namespace voronoi::core {
namespace {

TEST(WorkCounts, AddUpOverThreads) {
  const WorkCounts before = work_done();
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t)
    threads.emplace_back([] {
      for (int i = 0; i < 1000; ++i) count_work(Counted::model_bytes, std::int64_t{3});
    });
  for (std::thread& thread : threads) thread.join();
  count_product(2, 3, 5);
  WorkCounts did = work_done() - before;
  EXPECT_EQ(did[Counted::model_bytes], 12000);
  EXPECT_EQ(did[Counted::gemm_flops], 60);
  EXPECT_EQ(did[Counted::sent_bytes], 0);
  did += did;
  EXPECT_EQ(did[Counted::gemm_flops], 120);
}

TEST(WorkCounts, HaveNamesOfTheirOwn) {
  std::set<std::string_view> names;
  for (std::size_t i = 0; i < kCounted; ++i) names.insert(counted_name(static_cast<Counted>(i)));
  EXPECT_EQ(names.size(), kCounted);
  EXPECT_EQ(counted_name(Counted::sent_bytes), "sent_bytes");
  EXPECT_EQ(counted_name(Counted::seeding_flops), "seeding_flops");
}

}  // namespace
}  // namespace voronoi::core
