#include "store/start.h"

#include <gmock/gmock.h>
#include <unistd.h>

#include <atomic>
#include <thread>

#include "core/error.h"
#include "core/file.h"
#include "support/temporary.h"

namespace voronoi::store {
namespace {

namespace fs = std::filesystem;
using core::StoreError;
using test::message_of;
using test::TemporaryFolder;
using testing::AllOf;
using testing::HasSubstr;

struct RunFolder {
  TemporaryFolder folder;
  RunPaths paths{folder / "run"};
  RunFolder() { create_run_directory(paths); }
};

TEST(Start, PublishesAndRemovesAndLeavesNothingBehind) {
  const RunFolder run;
  {
    const std::unique_ptr<Start> start = Start::begin(run.paths);
    const Start other(run.paths, start->id(), 1);
    start->publish(run.paths.layer("a"), "first");
    other.publish(run.paths.layer("a"), "second");
    EXPECT_EQ(test::read_bytes(run.paths.layer("a")), "second");
    EXPECT_NE(start->temporary("a"), other.temporary("a"));
    other.remove(run.paths.layer("a"));
    EXPECT_FALSE(fs::exists(run.paths.layer("a")));
    other.remove(run.paths.layer("a"));
    other.require_current();
  }
  EXPECT_TRUE(fs::is_empty(run.paths.staging()));
  EXPECT_TRUE(fs::is_empty(run.paths.layers()));
}

TEST(Start, LaterOneFencesEveryRankOfTheEarlierOff) {
  const RunFolder run;
  const std::unique_ptr<Start> first = Start::begin(run.paths);
  const Start rank(run.paths, first->id(), 1);
  rank.publish(run.paths.layer("a"), "first");
  test::write_bytes(rank.temporary(run.paths.layer("b")), "half written");
  const std::unique_ptr<Start> second = Start::begin(run.paths);
  EXPECT_EQ(test::entries(run.paths.staging()), 1);
  second->publish(run.paths.layer("a"), "second");
  for (const Start* old : {static_cast<const Start*>(first.get()), &rank}) {
    EXPECT_THROW(old->publish(run.paths.layer("a"), "first"), Superseded);
    EXPECT_THROW(old->publish(run.paths.layer("new"), "first"), Superseded);
    EXPECT_THROW(old->remove(run.paths.layer("a")), Superseded);
    EXPECT_THROW(old->quarantine(run.paths.layer("a")), Superseded);
    EXPECT_THAT(message_of<Superseded>([&] { old->require_current(); }), HasSubstr(run.paths.root.string()));
  }
  // The very last step of a publication, with the bytes written and synced before the fence fell.
  EXPECT_NE(::rename(rank.temporary(run.paths.layer("b")).c_str(), run.paths.layer("b").c_str()), 0);
  EXPECT_EQ(test::read_bytes(run.paths.layer("a")), "second");
  EXPECT_EQ(test::entries(run.paths.layers()), 1);
}

TEST(Start, RemovesWhatAStartThatDiedWhileItRemovedOthersLeft) {
  const RunFolder run;
  const std::filesystem::path left = run.paths.staging() / "revoked-start-node1-12-abcdef";
  std::filesystem::create_directory(left);
  test::write_bytes(left / "a.h5.0", "half");
  const std::unique_ptr<Start> start = Start::begin(run.paths);
  EXPECT_FALSE(std::filesystem::exists(left));
}

TEST(Start, WriterThatNeverPausesIsFencedOff) {
  const RunFolder run;
  for (int round = 0; round < 20; ++round) {
    const std::unique_ptr<Start> first = Start::begin(run.paths);
    std::atomic<int> published{0};
    std::atomic<bool> superseded{false};
    std::thread writer([&] {
      try {
        for (;;) {
          first->publish(run.paths.layer("a"), "old");
          ++published;
        }
      } catch (const Superseded&) {
        superseded = true;
      }
    });
    while (published < 5) std::this_thread::yield();
    const std::unique_ptr<Start> second = Start::begin(run.paths);
    second->publish(run.paths.layer("a"), "new");
    writer.join();
    ASSERT_TRUE(superseded);
    ASSERT_EQ(test::read_bytes(run.paths.layer("a")), "new");
  }
}

TEST(Start, LeavesForeignFilesInTheStagingDirectoryAlone) {
  const RunFolder run;
  test::write_bytes(run.paths.staging() / "notes.txt", "mine");
  const std::unique_ptr<Start> start = Start::begin(run.paths);
  EXPECT_EQ(test::read_bytes(run.paths.staging() / "notes.txt"), "mine");
}

TEST(Start, OrdinaryErrorsKeepTheirReason) {
  const RunFolder run;
  const std::unique_ptr<Start> start = Start::begin(run.paths);
  EXPECT_THAT(message_of<StoreError>([&] { start->publish(run.paths.root / "none/f", "x"); }), HasSubstr("none/f"));
  EXPECT_THROW(Start::begin({"/dev/null"}), StoreError);
}

TEST(Start, QuarantinedFilesKeepTheirBytesAndNeverCollide) {
  const TemporaryFolder folder;
  const RunPaths paths{folder / "run"};
  create_run_directory(paths);
  const std::unique_ptr<Start> start = Start::begin(paths);
  for (int i = 1; i <= 3; ++i) {
    test::write_bytes(paths.layer("a"), std::to_string(i));
    const fs::path moved = start->quarantine(paths.layer("a"));
    EXPECT_EQ(moved, paths.quarantine() / ("a.h5." + std::to_string(i)));
    EXPECT_EQ(test::read_bytes(moved), std::to_string(i));
    EXPECT_FALSE(fs::exists(paths.layer("a")));
  }
  EXPECT_THAT(message_of<StoreError>([&] { start->quarantine(paths.layer("a")); }), HasSubstr("a.h5"));
}

}  // namespace
}  // namespace voronoi::store
