// A rank without MPI: this program does not start it.
#include <gtest/gtest.h>
#include <stdlib.h>

#include "comm/agreement.h"
#include "comm/mpi.h"
#include "core/error.h"

namespace voronoi::comm {
namespace {

TEST(Alone, AgreesWithItself) {
  const Communicator alone = Communicator::alone();
  EXPECT_EQ(alone.rank(), 0);
  EXPECT_EQ(alone.size(), 1);
  alone.barrier();
  EXPECT_EQ(alone.all_max(-7), -7);
  EXPECT_EQ(alone.broadcast(std::string("text"), 0), "text");
  EXPECT_EQ(alone.all_gather_value(3), std::vector<std::int64_t>{3});
  const std::vector<std::byte> bytes{std::byte{1}, std::byte{2}};
  const std::vector<std::vector<std::byte>> all{bytes};
  EXPECT_EQ(alone.all_gather(bytes), all);
  EXPECT_EQ(alone.gather(bytes, 0), all);
  EXPECT_EQ(local_ranks(alone).size, 1);
  int runs = 0;
  on_root(alone, [&] { ++runs; });
  EXPECT_EQ(runs, 1);
  EXPECT_THROW(together(alone, [] { throw core::ConfigError("wrong"); }), AgreedError);
}

TEST(Alone, HasNobodyToTalkTo) {
  const Communicator alone = Communicator::alone();
  EXPECT_THROW(alone.duplicate(), core::InternalError);
  EXPECT_THROW(alone.send({}, 0, 1), core::InternalError);
  const int self = 0;
  EXPECT_THROW(alone.subgroup({&self, 1}, 1), core::InternalError);
}

TEST(LaunchedRank, IsWhatTheLauncherSays) {
  ::unsetenv("OMPI_COMM_WORLD_RANK");
  ::unsetenv("PMIX_RANK");
  EXPECT_EQ(launched_rank(), 0);
  EXPECT_FALSE(is_launched());
  ::setenv("PMIX_RANK", "5", 1);
  EXPECT_EQ(launched_rank(), 5);
  EXPECT_TRUE(is_launched());
  ::unsetenv("PMIX_RANK");
}

}  // namespace
}  // namespace voronoi::comm
