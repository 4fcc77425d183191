#include "store/run_directory.h"

#include <gmock/gmock.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>

#include "core/error.h"
#include "core/file.h"
#include "core/hash.h"
#include "support/temporary.h"

namespace voronoi::store {
namespace {

namespace fs = std::filesystem;
using core::ConfigError;
using core::FormatError;
using core::Json;
using core::StoreError;
using test::message_of;
using test::TemporaryFolder;
using testing::AllOf;
using testing::HasSubstr;
using testing::Not;

Json identity() {
  return Json{{"version", "0.1.0"},
              {"model", {{"path", "/models/tiny"}, {"sha256", "abc"}}},
              {"quantizer", {{"method", "vptq"}, {"vector-length", 4}, {"damping", 0.01}, {"empty", Json::object()}}},
              {"texts", {"a", "b"}},
              {"seed", 0}};
}

/// Runs `body` in a child process and returns its exit status (0..255), or -1.
template <class Body>
int in_child(Body&& body) {
  const pid_t child = ::fork();
  if (child == 0) {
    int result = 255;
    try {
      result = body();
    } catch (...) {
    }
    ::_exit(result);
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

TEST(RunPaths, AreAsDocumented) {
  const RunPaths paths{"/r"};
  EXPECT_EQ(paths.hessian(7, "down"), "/r/hessians/block_007.down.h5");
  EXPECT_EQ(paths.hessian(1234, "qkv"), "/r/hessians/block_1234.qkv.h5");
  EXPECT_EQ(paths.layer("model.layers.7.self_attn.q_proj"), "/r/layers/model.layers.7.self_attn.q_proj.h5");
  for (const std::string& name : {std::string("../x"), std::string("/etc/passwd"), std::string()})
    EXPECT_THROW(paths.layer(name), core::InternalError) << name;
  EXPECT_EQ(paths.hessian(3, "expert.12.gate_up"), "/r/hessians/block_003.expert.12.gate_up.h5");
  EXPECT_THROW(paths.hessian(-1, "o"), core::InternalError);
  EXPECT_THROW(paths.hessian(0, "expert/12"), core::InternalError);
  EXPECT_THROW(paths.hessian(0, ""), core::InternalError);
}

TEST(RunDirectory, IsCreatedTwiceWithoutHarm) {
  const TemporaryFolder folder;
  const RunPaths paths{folder / "deep/run"};
  create_run_directory(paths);
  for (const fs::path& sub :
       {paths.layers(), paths.hessians(), paths.quarantine(), paths.evaluations(), paths.report(), paths.logs()})
    EXPECT_TRUE(fs::is_directory(sub)) << sub;
  const int n = test::entries(paths.root);
  check_or_write_identity(paths, identity(), "1");
  test::write_bytes(paths.layers() / "a.h5", "kept");
  create_run_directory(paths);
  EXPECT_EQ(test::entries(paths.root), n + 1);
  EXPECT_EQ(test::read_bytes(paths.layers() / "a.h5"), "kept");
}

TEST(RunDirectory, StartCutOffBeforeTheIdentityMayGoOn) {
  const TemporaryFolder folder;
  const RunPaths paths{folder / "run"};
  create_run_directory(paths);
  { const RunLock lock(paths); }
  test::write_bytes(paths.root / "run.json.tmp-1", "{\"for");
  test::write_bytes(paths.logs() / "rank_0.log", "x");
  create_run_directory(paths);
}

TEST(RunDirectory, FolderOfSomebodyElseIsRefused) {
  const TemporaryFolder folder;
  test::write_bytes(folder / "thesis.tex", "x");
  const std::string message = message_of<ConfigError>([&] { create_run_directory({folder.path()}); });
  EXPECT_THAT(message, AllOf(HasSubstr(folder.path().string()), HasSubstr("thesis.tex"), HasSubstr("--run")));
  EXPECT_EQ(test::entries(folder.path()), 1);
  // A folder of a name that is ours, but full of files without a run.json.
  const TemporaryFolder other;
  fs::create_directories(other / "layers");
  test::write_bytes(other / "layers/photo.jpg", "x");
  EXPECT_THROW(create_run_directory({other.path()}), ConfigError);
  test::write_bytes(other / "file", "x");
  EXPECT_THROW(create_run_directory({other / "file"}), ConfigError);
}

TEST(RunDirectory, UnwritablePlaceIsASystemErrorWithARemedy) {
  EXPECT_THAT(message_of<StoreError>([] { create_run_directory({"/dev/null/run"}); }),
              AllOf(HasSubstr("/dev/null/run"), HasSubstr("--run")));
  test::SmallDisk disk("size=1m");
  if (!disk.mounted()) GTEST_SKIP() << disk.why();
  create_run_directory({disk / "old"});
  check_or_write_identity({disk / "old"}, identity(), "1");
  ASSERT_TRUE(disk.make_read_only());
  EXPECT_THAT(message_of<StoreError>([&] { create_run_directory({disk / "run"}); }),
              HasSubstr("Read-only file system"));
  EXPECT_THAT(message_of<StoreError>([&] { create_run_directory({disk / "old"}); }),
              AllOf(HasSubstr((disk / "old").string()), HasSubstr("Read-only file system"), HasSubstr("--run")));
  EXPECT_THROW(RunLock({disk / "old"}), StoreError);
  EXPECT_EQ(read_identity({disk / "old"}), identity());
}

TEST(RunLock, SecondHolderIsRefusedWithTheFirstOnesName) {
  const TemporaryFolder folder;
  const RunPaths paths{folder.path()};
  ::setenv("SLURM_JOB_ID", "4711", 1);
  const RunLock lock(paths);
  ::unsetenv("SLURM_JOB_ID");
  EXPECT_FALSE(lock.stale_holder().has_value());
  char host[256] = {};
  ::gethostname(host, sizeof host - 1);
  const pid_t owner = ::getpid();
  const std::string message = message_of<StoreError>([&] { const RunLock second(paths); });
  EXPECT_THAT(message, AllOf(HasSubstr("process " + std::to_string(owner)), HasSubstr(host),
                             HasSubstr("Slurm job 4711"), HasSubstr(folder.path().string()), HasSubstr("--run")));
  EXPECT_EQ(in_child([&] {
              try {
                const RunLock second(paths);
                return 1;
              } catch (const StoreError& error) {
                return std::string(error.what()).find("process " + std::to_string(owner)) != std::string::npos ? 0 : 2;
              }
            }),
            0);
}

TEST(RunLock, IsFreeAgainAfterItsHolderEnds) {
  const TemporaryFolder folder;
  const RunPaths paths{folder.path()};
  for (int i = 0; i < 3; ++i) {
    const RunLock lock(paths);
    EXPECT_FALSE(lock.stale_holder().has_value());
  }
}

TEST(RunLock, DeadHolderIsReportedAndReplaced) {
  const TemporaryFolder folder;
  const RunPaths paths{folder.path()};
  int pipe[2];
  ASSERT_EQ(::pipe(pipe), 0);
  const pid_t child = ::fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    const RunLock lock(paths);
    if (::write(pipe[1], "x", 1) != 1) ::_exit(1);
    for (;;) ::pause();
  }
  char byte;
  ASSERT_EQ(::read(pipe[0], &byte, 1), 1);
  EXPECT_THAT(message_of<StoreError>([&] { const RunLock refused(paths); }),
              HasSubstr("process " + std::to_string(child)));
  ::kill(child, SIGKILL);
  ::waitpid(child, nullptr, 0);
  ::close(pipe[0]);
  ::close(pipe[1]);
  {
    const RunLock lock(paths);
    ASSERT_TRUE(lock.stale_holder().has_value());
    EXPECT_THAT(*lock.stale_holder(), HasSubstr("process " + std::to_string(child)));
    EXPECT_THAT(test::read_bytes(paths.lock()), HasSubstr("\"pid\":" + std::to_string(::getpid())));
  }
  EXPECT_FALSE(RunLock(paths).stale_holder().has_value());
}

TEST(RunLock, UnreadableRecordIsNoObstacle) {
  const TemporaryFolder folder;
  const RunPaths paths{folder.path()};
  for (const std::string& record : {std::string("{\"pid\":"), std::string("[]"),
                                    std::string("{\"pid\":\"x\",\"host\":1}"), std::string(9000, '[')}) {
    test::write_bytes(paths.lock(), record);
    const RunLock lock(paths);
    ASSERT_TRUE(lock.stale_holder().has_value());
    EXPECT_THAT(*lock.stale_holder(), HasSubstr("unreadable"));
  }
}

TEST(RunIdentity, IsWrittenOnceAndTheSameIsAccepted) {
  const TemporaryFolder folder;
  const RunPaths paths{folder.path()};
  check_or_write_identity(paths, identity(), "1");
  const std::string bytes = test::read_bytes(paths.identity());
  check_or_write_identity(paths, identity(), "2");
  EXPECT_EQ(test::read_bytes(paths.identity()), bytes);
  EXPECT_EQ(read_identity(paths), identity());
  EXPECT_EQ(test::entries(folder.path()), 1);
  // The documented checksum: over the file with zeros for the digest.
  const std::string digest = core::parse_json(bytes, "run.json")["sha256"].get<std::string>();
  std::string zeroed = bytes;
  zeroed.replace(zeroed.find(digest), 64, 64, '0');
  EXPECT_EQ(core::sha256(zeroed), digest);
}

TEST(RunIdentity, OrderOfKeysDoesNotMatter) {
  const TemporaryFolder folder;
  const RunPaths paths{folder.path()};
  check_or_write_identity(paths, Json{{"a", 1}, {"b", {{"c", 2}, {"d", 3}}}}, "1");
  check_or_write_identity(paths, Json{{"b", {{"d", 3}, {"c", 2}}}, {"a", 1}}, "1");
}

TEST(RunIdentity, EveryDifferenceIsListed) {
  const TemporaryFolder folder;
  const RunPaths paths{folder.path()};
  check_or_write_identity(paths, identity(), "1");
  Json other = identity();
  other["quantizer"]["vector-length"] = 8;
  other["quantizer"]["damping"] = 0.02;
  other["model"].erase("sha256");
  other["texts"] = {"a", "c"};
  other["new"] = {{"key", true}};
  const std::string message = message_of<ConfigError>([&] { check_or_write_identity(paths, other, "1"); });
  EXPECT_THAT(
      message,
      AllOf(HasSubstr("quantizer.vector-length: was 4, is 8"), HasSubstr("quantizer.damping: was 0.01, is 0.02"),
            HasSubstr("model.sha256: was \"abc\", is absent"), HasSubstr("texts: was [\"a\",\"b\"], is [\"a\",\"c\"]"),
            HasSubstr("new.key: was absent, is true")));
  EXPECT_THAT(message, AllOf(HasSubstr("--run"), Not(HasSubstr("seed")), Not(HasSubstr("method"))));
  EXPECT_EQ(read_identity(paths), identity());
}

TEST(RunIdentity, AnyDamageIsFoundWithTheRemedy) {
  const TemporaryFolder folder;
  const RunPaths paths{folder.path()};
  check_or_write_identity(paths, identity(), "1");
  const std::string good = test::read_bytes(paths.identity());
  for (std::size_t i = 0; i < good.size(); ++i) {
    std::string bad = good;
    bad[i] = static_cast<char>(bad[i] ^ (1 << (i % 8)));
    test::write_bytes(paths.identity(), bad);
    ASSERT_THAT(message_of<FormatError>([&] { check_or_write_identity(paths, identity(), "1"); }),
                AllOf(HasSubstr(paths.identity().string()), HasSubstr("--run")))
        << i;
  }
  for (std::size_t length = 0; length < good.size(); ++length) {
    test::write_bytes(paths.identity(), good.substr(0, length));
    ASSERT_THROW(read_identity(paths), FormatError) << length;
  }
  for (const std::string& text :
       {std::string("[]"), std::string("{}"), std::string("{\"format\":1}"),
        std::string("{\"format\":\"voronoi run\",\"version\":1,\"sha256\":\"\",\"identity\":{}}")}) {
    test::write_bytes(paths.identity(), text);
    EXPECT_THROW(read_identity(paths), FormatError) << text;
  }
}

TEST(RunIdentity, FullDiskLeavesNothing) {
  const test::SmallDisk disk("size=64k");
  if (!disk.mounted()) GTEST_SKIP() << disk.why();
  test::write_bytes(disk / "filler", std::string(1 << 20, 'x'));
  const RunPaths paths{disk.path()};
  EXPECT_THAT(message_of<StoreError>([&] { check_or_write_identity(paths, identity(), "1"); }),
              HasSubstr("No space left"));
  EXPECT_EQ(test::entries(disk.path()), 1);
}

TEST(RunDirectory, QuarantinedFilesKeepTheirBytesAndNeverCollide) {
  const TemporaryFolder folder;
  const RunPaths paths{folder / "run"};
  create_run_directory(paths);
  for (int i = 1; i <= 3; ++i) {
    test::write_bytes(paths.layer("a"), std::to_string(i));
    const fs::path moved = quarantine_file(paths, paths.layer("a"));
    EXPECT_EQ(moved, paths.quarantine() / ("a.h5." + std::to_string(i)));
    EXPECT_EQ(test::read_bytes(moved), std::to_string(i));
    EXPECT_FALSE(fs::exists(paths.layer("a")));
  }
  EXPECT_THAT(message_of<StoreError>([&] { quarantine_file(paths, paths.layer("a")); }), HasSubstr("a.h5"));
}

}  // namespace
}  // namespace voronoi::store
