#include "backend/cores.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <numeric>
#include <string>
#include <system_error>

#include "support/skip.h"

namespace voronoi::backend {
namespace {

using ::testing::ElementsAre;

std::vector<int> range(int first, int count) {
  std::vector<int> cores(static_cast<std::size_t>(count));
  std::iota(cores.begin(), cores.end(), first);
  return cores;
}

std::vector<int> threads(const std::vector<CoreClaim>& claims) {
  std::vector<int> result;
  for (std::size_t rank = 0; rank < claims.size(); ++rank) result.push_back(fair_threads(claims, rank));
  return result;
}

TEST(Cores, RanksWithTheSameMaskDivideIt) {
  // mpirun --bind-to none in a part of a node: 8 of its cores for 2 ranks, on another node 8 for one.
  EXPECT_THAT(threads({{"a", range(8, 8)}, {"a", range(8, 8)}, {"b", range(8, 8)}}), ElementsAre(4, 4, 8));
  EXPECT_THAT(threads(std::vector<CoreClaim>(64, {"a", range(0, 64)})), ::testing::Each(1));
  EXPECT_THAT(threads(std::vector<CoreClaim>(3, {"a", range(0, 64)})), ::testing::Each(21));
}

TEST(Cores, RanksWithMasksOfTheirOwnTakeThem) {
  EXPECT_THAT(threads({{"a", range(0, 8)}, {"a", range(8, 24)}}), ElementsAre(8, 24));  // srun -c
  EXPECT_THAT(threads({{"a", range(0, 32)}, {"a", range(32, 32)}, {"a", range(0, 32)}, {"a", range(32, 32)}}),
              ::testing::Each(16));  // two ranks a NUMA node
}

TEST(Cores, OverlappingMasksDivideWhatTheyShare) {
  EXPECT_THAT(threads({{"a", range(0, 8)}, {"a", range(0, 4)}}), ElementsAre(6, 2));
}

TEST(Cores, ARankHasAThreadWhateverItIsLeft) {
  EXPECT_THAT(threads({{"a", range(0, 1)}, {"a", range(0, 1)}, {"a", {}}}), ElementsAre(1, 1, 1));
}

TEST(Cores, AQuotaIsDividedByTheRanksOfItsGroup) {
  const CoreClaim limited{"a", range(0, 16), "/job", 6}, own{"a", range(16, 16), "/other", 6};
  EXPECT_THAT(threads({limited, limited, own}), ElementsAre(3, 3, 6));
  EXPECT_THAT(threads({{"a", range(0, 16), "/job", 0.5}}), ElementsAre(1));
  EXPECT_THAT(threads({{"a", range(0, 2), "/job", 6}}), ElementsAre(2));
}

TEST(Cores, TheTightestLimitOnTheWayToTheRootCounts) {
  const std::filesystem::path mount = std::filesystem::path(::testing::TempDir()) / "cores_test";
  std::filesystem::create_directories(mount / "slurm/job/step");
  std::ofstream(mount / "slurm/cpu.max") << "800000 100000\n";
  std::ofstream(mount / "slurm/job/cpu.max") << "250000 100000\n";
  std::ofstream(mount / "slurm/job/step/cpu.max") << "max 100000\n";
  CoreClaim claim;
  read_quota(mount, "/slurm/job/step", claim);
  EXPECT_EQ(claim.quota, 2.5);
  EXPECT_EQ(claim.group, "/slurm/job");
  std::ofstream(mount / "slurm/job/step/cpu.cfs_quota_us") << "-1\n";
  CoreClaim none;
  read_quota(mount, "/elsewhere", none);
  EXPECT_EQ(none.quota, 0);
  std::filesystem::remove_all(mount);
}

/// A control group with a limit of time, which this process is in meanwhile.
class RealQuota {
 public:
  /// `file`, `limit`: what the hierarchy at `mount` is told it by.
  RealQuota(const std::filesystem::path& mount, const char* file, const char* limit)
      : mount_(mount), group_(mount / ("voronoi-test-" + std::to_string(::getpid()))) {
    std::error_code error;
    if (!std::filesystem::exists(mount / "cgroup.procs") || !std::filesystem::create_directory(group_, error)) return;
    made_ = write(group_ / file, limit) && enter(group_);
  }
  ~RealQuota() {
    if (made_) enter(mount_);
    std::error_code ignored;
    std::filesystem::remove(group_, ignored);
  }
  RealQuota(const RealQuota&) = delete;
  RealQuota& operator=(const RealQuota&) = delete;
  bool made() const { return made_; }
  std::string name() const { return "/" + group_.filename().string(); }

 private:
  static bool write(const std::filesystem::path& file, const std::string& text) {
    return std::filesystem::exists(file) && static_cast<bool>(std::ofstream(file) << text << std::flush);
  }
  static bool enter(const std::filesystem::path& group) {
    return write(group / "cgroup.procs", std::to_string(::getpid()));
  }
  std::filesystem::path mount_, group_;
  bool made_ = false;
};

TEST(Cores, TheQuotaOfARealGroupIsSeen) {
  const CoreClaim before = claim_of_this_process();
  if (before.quota > 0) VORONOI_SKIP_MACHINE("this process has a quota already");
  const RealQuota v1("/sys/fs/cgroup/cpu", "cpu.cfs_quota_us", "150000"),
      v2("/sys/fs/cgroup", "cpu.max", "150000 100000");
  if (!v1.made() && !v2.made()) VORONOI_SKIP_MACHINE("no control group with a quota can be made here");
  const CoreClaim claim = claim_of_this_process();
  EXPECT_EQ(claim.quota, 1.5);
  EXPECT_EQ(claim.group, (v1.made() ? v1 : v2).name());
  EXPECT_EQ(fair_threads({claim, claim}, 0), 1);
}

TEST(Cores, ThisProcessMayUseSome) { EXPECT_FALSE(claim_of_this_process().cores.empty()); }

}  // namespace
}  // namespace voronoi::backend
