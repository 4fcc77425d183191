// main of the tests that run under mpirun: rank 0 prints as usual, the others print their failures only; a failure
// anywhere fails all.
#include <gtest/gtest.h>

#include <cstdio>

#include "comm/mpi.h"

namespace {

class FailurePrinter final : public testing::EmptyTestEventListener {
 public:
  explicit FailurePrinter(int rank) : rank_(rank) {}
  void OnTestStart(const testing::TestInfo& test) override { test_ = &test; }
  /// Called with the lock held that UnitTest would take to say which test it is.
  void OnTestPartResult(const testing::TestPartResult& result) override {
    if (!result.failed()) return;
    std::fprintf(stderr, "rank %d: %s.%s: %s:%d: %s\n", rank_, test_ != nullptr ? test_->test_suite_name() : "",
                 test_ != nullptr ? test_->name() : "", result.file_name() != nullptr ? result.file_name() : "",
                 result.line_number(), result.message());
  }

 private:
  int rank_;
  const testing::TestInfo* test_ = nullptr;
};

}  // namespace

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  const voronoi::comm::Environment environment(&argc, &argv);
  const auto world = voronoi::comm::Communicator::world();
  if (world.rank() > 0) {
    auto& listeners = testing::UnitTest::GetInstance()->listeners();
    delete listeners.Release(listeners.default_result_printer());
    listeners.Append(new FailurePrinter(world.rank()));
  }
  const int mine = RUN_ALL_TESTS();
  int n_failed = 0;
  for (const auto result : world.all_gather_value(mine)) n_failed += result != 0 ? 1 : 0;
  if (n_failed > 0 && world.rank() == 0)
    std::fprintf(stderr, "tests failed on %d of %d ranks\n", n_failed, world.size());
  return n_failed > 0 ? 1 : 0;
}
