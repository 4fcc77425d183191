#include "core/mapped_file.h"

#include <gmock/gmock.h>
#include <signal.h>
#include <sys/stat.h>

#include "core/error.h"
#include "support/temporary.h"

namespace voronoi::core {
namespace {

namespace fs = std::filesystem;
using test::message_of;
using test::TemporaryFolder;
using testing::AllOf;
using testing::HasSubstr;

constexpr std::size_t kPage = 65536;  // at least one page of any system

std::string text_in(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

TEST(MappedFile, ShowsTheBytesOfAFile) {
  const TemporaryFolder folder;
  const std::string content("a\0b\xFF", 4);
  test::write_bytes(folder / "f", content);
  MappedFile file(folder / "f");
  EXPECT_EQ(text_in(file.bytes()), content);
  EXPECT_EQ(file.path(), (folder / "f").string());
  const MappedFile moved(std::move(file));
  EXPECT_EQ(text_in(moved.bytes()), content);
}

TEST(MappedFile, EmptyFileIsAnEmptySpan) {
  const TemporaryFolder folder;
  test::write_bytes(folder / "f", "");
  EXPECT_TRUE(MappedFile(folder / "f").bytes().empty());
}

TEST(MappedFile, WhatIsNoFileIsRefusedWithoutWaiting) {
  const TemporaryFolder folder;
  EXPECT_THAT(message_of<StoreError>([&] { const MappedFile file(folder / "none"); }),
              AllOf(HasSubstr((folder / "none").string()), HasSubstr("No such file"), HasSubstr("check the path")));
  EXPECT_THAT(message_of<StoreError>([&] { const MappedFile file(folder.path()); }),
              HasSubstr("is not a regular file"));
  ASSERT_EQ(::mkfifo((folder / "pipe").c_str(), 0600), 0);
  EXPECT_THAT(message_of<StoreError>([&] { const MappedFile file(folder / "pipe"); }),
              HasSubstr("is not a regular file"));
  EXPECT_THROW(MappedFile("/dev/null/x"), StoreError);
}

TEST(MappedFile, FindsThatAFileWasCutOrOverwritten) {
  const TemporaryFolder folder;
  const std::string content(1000, 'x');
  test::write_bytes(folder / "f", content);
  const MappedFile cut(folder / "f");
  EXPECT_NO_THROW(cut.require_unchanged());
  // Inside the last page there is no signal: the rest reads as zeros.
  fs::resize_file(folder / "f", 10);
  EXPECT_EQ(cut.bytes()[500], std::byte{0});
  EXPECT_THAT(message_of<StoreError>([&] { cut.require_unchanged(); }),
              AllOf(HasSubstr((folder / "f").string()), HasSubstr("was changed or cut"), HasSubstr("put it back")));

  test::write_bytes(folder / "g", content);
  fs::last_write_time(folder / "g", fs::last_write_time(folder / "g") - std::chrono::hours(1));
  const MappedFile overwritten(folder / "g");
  test::write_bytes(folder / "g", std::string(1000, 'y'));
  EXPECT_THROW(overwritten.require_unchanged(), StoreError);

  // Replaced as a whole: the old file is still there for who has it open.
  test::write_bytes(folder / "h", content);
  const MappedFile replaced(folder / "h");
  test::write_bytes(folder / "new", std::string(10, 'y'));
  fs::rename(folder / "new", folder / "h");
  EXPECT_NO_THROW(replaced.require_unchanged());
  EXPECT_EQ(text_in(replaced.bytes()), content);
}

void read_what_was_cut(const fs::path& path) {
  report_lost_pages(3);
  test::write_bytes(path.string() + ".other", std::string(kPage, 'z'));
  const MappedFile other(path.string() + ".other");
  const MappedFile file(path);
  fs::resize_file(path, kPage);
  std::size_t sum = 0;
  for (const std::byte byte : file.bytes()) sum += std::to_integer<std::size_t>(byte);
  std::exit(sum == 0 ? 1 : 0);
}

TEST(MappedFileDeathTest, AFileThatIsCutWhileItIsReadIsNamed) {
  const TemporaryFolder folder;
  test::write_bytes(folder / "model.bin", std::string(4 * kPage, 'x'));
  EXPECT_EXIT(read_what_was_cut(folder / "model.bin"), testing::ExitedWithCode(74),
              "^rank 3: error: .*model.bin: cannot be read any more.*run the same command again");
}

TEST(MappedFileDeathTest, AnotherBusErrorIsNotBlamedOnAFile) {
  const TemporaryFolder folder;
  test::write_bytes(folder / "f", "content");
  EXPECT_EXIT(
      {
        report_lost_pages(-1);
        const MappedFile file(folder / "f");
        ::raise(SIGBUS);
        ::raise(SIGBUS);
      },
      testing::KilledBySignal(SIGBUS), "^$");
}

}  // namespace
}  // namespace voronoi::core
