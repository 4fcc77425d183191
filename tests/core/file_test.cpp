#include "core/file.h"

#include <gmock/gmock.h>
#include <sys/wait.h>
#include <unistd.h>

#include <fstream>

#include "core/error.h"
#include "core/whereabouts.h"
#include "support/skip.h"
#include "support/temporary.h"

namespace voronoi::core {
namespace {

namespace fs = std::filesystem;
using test::message_of;
using test::TemporaryFolder;
using testing::AllOf;
using testing::HasSubstr;

std::string text_of(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

TEST(ReadFile, GivesTheBytesUpToABound) {
  const TemporaryFolder folder;
  const std::string content(100000, 'x');
  test::write_bytes(folder / "f", content);
  EXPECT_EQ(read_text_file(folder / "f"), content);
  EXPECT_EQ(text_of(read_file(folder / "f")), content);
  EXPECT_EQ(read_text_file(folder / "f", content.size()), content);
  EXPECT_THAT(message_of<FormatError>([&] { read_text_file(folder / "f", content.size() - 1); }),
              AllOf(HasSubstr((folder / "f").string()), HasSubstr("100000 bytes")));
  test::write_bytes(folder / "e", "");
  EXPECT_EQ(read_text_file(folder / "e", 0), "");
  EXPECT_THROW(read_text_file(folder / "none"), StoreError);
  EXPECT_THROW(read_file(folder.path()), StoreError);
}

TEST(WriteFileAtomic, CreatesAndReplaces) {
  const TemporaryFolder folder;
  write_file_atomic(folder / "f", "first, and longer", "1");
  write_file_atomic(folder / "f", "second", "1");
  EXPECT_EQ(test::read_bytes(folder / "f"), "second");
  write_file_atomic(folder / "f", "", "1");
  EXPECT_EQ(test::read_bytes(folder / "f"), "");
  EXPECT_EQ(test::entries(folder.path()), 1);
}

TEST(WriteFileAtomic, LeftoverOfAKilledWriterIsNoObstacle) {
  const TemporaryFolder folder;
  test::write_bytes(folder / "f.tmp-7", "half-written and longer than the new content");
  write_file_atomic(folder / "f", "whole", "7");
  EXPECT_EQ(test::read_bytes(folder / "f"), "whole");
  EXPECT_EQ(test::entries(folder.path()), 1);
}

TEST(WriteFileAtomic, FullDiskKeepsTheOldContentAndNoTemporary) {
  const test::SmallDisk disk("size=64k");
  if (!disk.mounted()) VORONOI_SKIP_MACHINE(disk.why());
  write_file_atomic(disk / "f", "old", "1");
  const std::string big(1 << 20, 'x');
  EXPECT_THAT(
      message_of<StoreError>([&] { write_file_atomic(disk / "f", big, "2"); }),
      AllOf(HasSubstr((disk / "f").string()), HasSubstr("No space left on device"), HasSubstr("free some space")));
  EXPECT_EQ(test::read_bytes(disk / "f"), "old");
  EXPECT_EQ(test::entries(disk.path()), 1);
  write_file_atomic(disk / "f", "new", "2");
  EXPECT_EQ(test::read_bytes(disk / "f"), "new");
}

TEST(WriteFileAtomic, ReadOnlyDiskIsNamedWithARemedy) {
  test::SmallDisk disk("size=64k");
  if (!disk.mounted()) VORONOI_SKIP_MACHINE(disk.why());
  write_file_atomic(disk / "f", "old", "1");
  ASSERT_TRUE(disk.make_read_only());
  EXPECT_THAT(message_of<StoreError>([&] { write_file_atomic(disk / "f", "new", "2"); }),
              AllOf(HasSubstr((disk / "f").string()), HasSubstr("Read-only"), HasSubstr("choose another place")));
  EXPECT_EQ(test::read_bytes(disk / "f"), "old");
}

TEST(WriteFileAtomic, FailedRenameLeavesNoTemporary) {
  const TemporaryFolder folder;
  fs::create_directories(folder / "f/inside");
  EXPECT_THAT(message_of<StoreError>([&] { write_file_atomic(folder / "f", "x", "1"); }),
              HasSubstr((folder / "f").string()));
  EXPECT_EQ(test::entries(folder.path()), 1);
  EXPECT_THROW(write_file_atomic("/dev/null/f", "x", "1"), StoreError);
  EXPECT_THROW(write_file_atomic(folder / "none/f", "x", "1"), StoreError);
}

TEST(OutputFile, IsWrittenInAnyOrder) {
  const TemporaryFolder folder;
  OutputFile file(folder / "f");
  const std::string first = "abc", second = "def";
  file.write_at(3, std::as_bytes(std::span(second)));
  file.write_at(0, std::as_bytes(std::span(first)));
  file.finish();
  EXPECT_EQ(test::read_bytes(folder / "f"), "abcdef");
}

TEST(OutputFile, OverwritesNothing) {
  const TemporaryFolder folder;
  test::write_bytes(folder / "f", "x");
  EXPECT_THAT(message_of<StoreError>([&] { const OutputFile file(folder / "f"); }),
              AllOf(HasSubstr("/f"), HasSubstr("create")));
  EXPECT_EQ(test::read_bytes(folder / "f"), "x");
}

TEST(OutputFile, AFullDiskIsNamed) {
  const test::SmallDisk disk("size=64k");
  if (!disk.mounted()) VORONOI_SKIP_MACHINE(disk.why());
  OutputFile file(disk / "f");
  const std::string bytes(200000, 'x');
  EXPECT_THAT(message_of<StoreError>([&] {
                file.write_at(0, std::as_bytes(std::span(bytes)));
                file.finish();
              }),
              AllOf(HasSubstr("/f"), HasSubstr("free some space")));
}

TEST(SyncDirectory, NeedsADirectory) {
  const TemporaryFolder folder;
  sync_directory(folder.path());
  sync_directory("");
  test::write_bytes(folder / "f", "x");
  EXPECT_THROW(sync_directory(folder / "f"), StoreError);
  EXPECT_THROW(sync_directory(folder / "none"), StoreError);
}

TEST(WriteFileShared, RemovesWhatKilledWritersLeftAndNothingElse) {
  const test::TemporaryFolder folder;
  const std::filesystem::path file = folder.path() / "report.json";
  const auto temporary = [&](const std::string& writer) { return file.string() + ".tmp-" + writer; };
  const pid_t child = ::fork();
  if (child == 0) ::_exit(0);
  ASSERT_EQ(::waitpid(child, nullptr, 0), child);
  const std::string gone = temporary(host_name() + "." + std::to_string(child) + ".1");
  const std::vector<std::string> kept{
      temporary(host_name() + "." + std::to_string(::getpid()) + ".1"),
      temporary("elsewhere." + std::to_string(child) + ".1"), temporary(host_name() + "." + std::to_string(child)),
      (folder.path() / ("other.json.tmp-" + host_name() + "." + std::to_string(child) + ".1")).string()};
  for (const std::string& path : kept) std::ofstream(path) << "part";
  std::ofstream(gone) << "part";
  write_file_shared(file, "whole");
  EXPECT_EQ(read_text_file(file), "whole");
  EXPECT_FALSE(std::filesystem::exists(gone));
  for (const std::string& path : kept) EXPECT_TRUE(std::filesystem::exists(path)) << path;
}

}  // namespace
}  // namespace voronoi::core
