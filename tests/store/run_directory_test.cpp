#include "store/run_directory.h"

#include <gmock/gmock.h>

#include "core/error.h"
#include "core/file.h"
#include "core/hash.h"
#include "store/run_lock.h"
#include "store/start.h"
#include "support/skip.h"
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

void write_identity(const RunPaths& paths, const Json& value) {
  fs::create_directories(paths.staging());
  check_or_write_identity(*Start::begin(paths), value);
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
  write_identity(paths, identity());
  test::write_bytes(paths.layers() / "a.h5", "kept");
  create_run_directory(paths);
  EXPECT_EQ(test::entries(paths.root), n + 1);
  EXPECT_EQ(test::read_bytes(paths.layers() / "a.h5"), "kept");
}

TEST(RunDirectory, IsLookedAtWithoutWriting) {
  const TemporaryFolder folder;
  EXPECT_TRUE(run_directory_problems({folder / "deep/run"}).empty());
  EXPECT_FALSE(fs::exists(folder / "deep"));
  test::write_bytes(folder / "file", "x");
  for (const char* place : {"file", "file/run"})
    EXPECT_EQ(run_directory_problems({folder / place}).size(), 1U) << place;
  fs::create_directory(folder / "foreign");
  test::write_bytes(folder / "foreign/thesis.tex", "x");
  EXPECT_THAT(run_directory_problems({folder / "foreign"}), ::testing::ElementsAre(HasSubstr("thesis.tex")));
  const RunPaths paths{folder / "run"};
  create_run_directory(paths);
  write_identity(paths, identity());
  EXPECT_TRUE(run_directory_problems(paths).empty());
  EXPECT_TRUE(identity_problems(paths, identity()).empty());
  Json other = identity();
  other["seed"] = 1;
  EXPECT_THAT(identity_problems(paths, other), ::testing::Contains(HasSubstr("seed: was 0, is 1")));
}

TEST(RunDirectory, StartCutOffBeforeTheIdentityMayGoOn) {
  const TemporaryFolder folder;
  const RunPaths paths{folder / "run"};
  create_run_directory(paths);
  { const RunLock lock(paths); }
  fs::create_directory(paths.staging() / "start-node1-12-abcdef");
  test::write_bytes(paths.staging() / "start-node1-12-abcdef/run.json.0", "{\"for");
  test::write_bytes(paths.logs() / "rank_0.log", "x");
  test::write_bytes(paths.root / ".write-check", "");
  create_run_directory(paths);
  EXPECT_FALSE(fs::exists(paths.root / ".write-check"));
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
  if (!disk.mounted()) VORONOI_SKIP_MACHINE(disk.why());
  create_run_directory({disk / "old"});
  write_identity({disk / "old"}, identity());
  ASSERT_TRUE(disk.make_read_only());
  EXPECT_THAT(message_of<StoreError>([&] { create_run_directory({disk / "run"}); }),
              HasSubstr("Read-only file system"));
  EXPECT_THAT(message_of<StoreError>([&] { create_run_directory({disk / "old"}); }),
              AllOf(HasSubstr((disk / "old").string()), HasSubstr("Read-only file system"), HasSubstr("--run")));
  EXPECT_THROW(RunLock({disk / "old"}), StoreError);
  EXPECT_EQ(read_identity({disk / "old"}), identity());
}

TEST(RunIdentity, IsWrittenOnceAndTheSameIsAccepted) {
  const TemporaryFolder folder;
  const RunPaths paths{folder.path()};
  write_identity(paths, identity());
  const std::string bytes = test::read_bytes(paths.identity());
  write_identity(paths, identity());
  EXPECT_EQ(test::read_bytes(paths.identity()), bytes);
  EXPECT_EQ(read_identity(paths), identity());
  EXPECT_EQ(test::entries(folder.path()), 2);  // with the staging directory
  // The documented checksum: over the file with zeros for the digest.
  const std::string digest = core::parse_json(bytes, "run.json")["sha256"].get<std::string>();
  std::string zeroed = bytes;
  zeroed.replace(zeroed.find(digest), 64, 64, '0');
  EXPECT_EQ(core::sha256(zeroed), digest);
}

TEST(RunIdentity, OrderOfKeysDoesNotMatter) {
  const TemporaryFolder folder;
  const RunPaths paths{folder.path()};
  write_identity(paths, Json{{"a", 1}, {"b", {{"c", 2}, {"d", 3}}}});
  write_identity(paths, Json{{"b", {{"d", 3}, {"c", 2}}}, {"a", 1}});
}

TEST(RunIdentity, EveryDifferenceIsListed) {
  const TemporaryFolder folder;
  const RunPaths paths{folder.path()};
  write_identity(paths, identity());
  Json other = identity();
  other["quantizer"]["vector-length"] = 8;
  other["quantizer"]["damping"] = 0.02;
  other["model"].erase("sha256");
  other["texts"] = {"a", "c"};
  other["new"] = {{"key", true}};
  const std::string message = message_of<ConfigError>([&] { write_identity(paths, other); });
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
  write_identity(paths, identity());
  const std::string good = test::read_bytes(paths.identity());
  for (std::size_t i = 0; i < good.size(); ++i) {
    std::string bad = good;
    bad[i] = static_cast<char>(bad[i] ^ (1 << (i % 8)));
    test::write_bytes(paths.identity(), bad);
    ASSERT_THAT(message_of<FormatError>([&] { write_identity(paths, identity()); }),
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
  if (!disk.mounted()) VORONOI_SKIP_MACHINE(disk.why());
  const RunPaths paths{disk.path()};
  fs::create_directory(paths.staging());
  const std::unique_ptr<Start> start = Start::begin(paths);
  test::write_bytes(disk / "filler", std::string(1 << 20, 'x'));
  EXPECT_THAT(message_of<StoreError>([&] { check_or_write_identity(*start, identity()); }), HasSubstr("No space left"));
  EXPECT_FALSE(fs::exists(paths.identity()));
  EXPECT_TRUE(fs::is_empty(start->temporary("x").parent_path()));
}

}  // namespace
}  // namespace voronoi::store
