#include "store/journal.h"

#include <gmock/gmock.h>
#include <sys/wait.h>
#include <unistd.h>

#include "core/error.h"
#include "core/hash.h"
#include "support/skip.h"
#include "support/temporary.h"

namespace voronoi::store {
namespace {

using core::FormatError;
using core::Json;
using core::StoreError;
using test::message_of;
using test::TemporaryFolder;
using testing::HasSubstr;

Json record(int i) {
  return Json{{"event", "done"}, {"task", i}, {"note", "tab\t, line\n, \xC3\xA9"}, {"nested", {{"a", {1, 2}}}}};
}

/// Made under a temporary name beside the file.
struct TestJournal : Journal {
  explicit TestJournal(const std::filesystem::path& path) : Journal(path, path.string() + ".tmp") {}
};

/// A journal of n records and its bytes.
std::string make_journal(const std::filesystem::path& path, int n) {
  TestJournal journal(path);
  for (int i = 0; i < n; ++i) journal.append(record(i));
  return test::read_bytes(path);
}

/// Byte at which each line begins, and the length at the end.
std::vector<std::size_t> line_starts(const std::string& bytes) {
  std::vector<std::size_t> starts{0};
  for (std::size_t i = 0; i < bytes.size(); ++i)
    if (bytes[i] == '\n') starts.push_back(i + 1);
  return starts;
}

TEST(Journal, RecordsComeBackInOrder) {
  const TemporaryFolder folder;
  make_journal(folder / "j", 3);
  TestJournal again(folder / "j");
  EXPECT_FALSE(again.dropped_torn_tail());
  ASSERT_EQ(again.records().size(), 3U);
  again.append(record(3));
  const std::vector<Json> all = Journal::read(folder / "j");
  ASSERT_EQ(all.size(), 4U);
  for (int i = 0; i < 4; ++i) EXPECT_EQ(all[static_cast<std::size_t>(i)], record(i));
  EXPECT_EQ(again.take_records(), (std::vector<Json>{all.begin(), all.begin() + 3}));
  EXPECT_TRUE(again.records().empty());
  again.append(record(4));
  EXPECT_EQ(Journal::read(folder / "j").size(), 5U);
}

TEST(Journal, LineIsAsDocumented) {
  const TemporaryFolder folder;
  {
    TestJournal journal(folder / "j");
    journal.append(Json{{"a", 1}});
    journal.append(Json{{"b", "x\ny"}});
  }
  EXPECT_EQ(test::read_bytes(folder / "j"), "1 " + core::sha256("1 {\"a\":1}").substr(0, 16) + " {\"a\":1}\n" + "2 " +
                                                core::sha256("2 {\"b\":\"x\\ny\"}").substr(0, 16) +
                                                " {\"b\":\"x\\ny\"}\n");
}

TEST(Journal, EmptyFileHasNoRecords) {
  const TemporaryFolder folder;
  test::write_bytes(folder / "j", "");
  EXPECT_TRUE(Journal::read(folder / "j").empty());
  const TestJournal journal(folder / "j");
  EXPECT_TRUE(journal.records().empty());
  EXPECT_FALSE(journal.dropped_torn_tail());
}

TEST(Journal, CutAtEveryByteItHoldsAPrefixAndGoesOn) {
  const TemporaryFolder folder;
  const std::string whole = make_journal(folder / "whole", 5);
  const std::vector<std::size_t> starts = line_starts(whole);
  ASSERT_EQ(starts.size(), 6U);
  const auto path = folder / "j";
  for (std::size_t length = 0; length <= whole.size(); ++length) {
    test::write_bytes(path, whole.substr(0, length));
    std::size_t kept = 0;
    while (kept + 1 < starts.size() && starts[kept + 1] <= length) ++kept;
    const bool torn = starts[kept] != length;
    ASSERT_EQ(Journal::read(path).size(), kept) << length;
    ASSERT_EQ(test::read_bytes(path).size(), length) << "reading wrote";
    {
      TestJournal journal(path);
      ASSERT_EQ(journal.records().size(), kept) << length;
      ASSERT_EQ(journal.dropped_torn_tail(), torn) << length;
      for (std::size_t i = 0; i < kept; ++i) ASSERT_EQ(journal.records()[i], record(static_cast<int>(i)));
      journal.append(Json{{"after", "cut"}});
    }
    const TestJournal again(path);
    ASSERT_FALSE(again.dropped_torn_tail());
    ASSERT_EQ(again.records().size(), kept + 1);
    ASSERT_EQ(again.records().back(), (Json{{"after", "cut"}}));
  }
}

TEST(Journal, DamageBeforeTheLastLineNamesFileAndLine) {
  const TemporaryFolder folder;
  const std::string whole = make_journal(folder / "whole", 5);
  const std::vector<std::size_t> starts = line_starts(whole);
  const auto path = folder / "j";
  for (std::size_t i = 0; i < starts[4]; ++i) {
    for (const int bit : {0, 3, 6}) {
      std::string bad = whole;
      bad[i] = static_cast<char>(bad[i] ^ (1 << bit));
      test::write_bytes(path, bad);
      std::size_t line = 1;
      while (starts[line] <= i) ++line;
      const std::string message = message_of<FormatError>([&] { const TestJournal journal(path); });
      ASSERT_THAT(message, testing::AllOf(HasSubstr(path.string()), HasSubstr("line " + std::to_string(line)),
                                          HasSubstr("run the same command again")))
          << "byte " << i << " bit " << bit;
      ASSERT_THROW(Journal::read(path), FormatError);
      ASSERT_EQ(test::read_bytes(path), bad) << "a damaged journal is left as it is";
    }
  }
}

TEST(Journal, DamageInTheLastLineNeverGivesAnotherRecord) {
  const TemporaryFolder folder;
  const std::string whole = make_journal(folder / "whole", 5);
  const auto path = folder / "j";
  for (std::size_t i = line_starts(whole)[4]; i < whole.size(); ++i) {
    for (int bit = 0; bit < 8; ++bit) {
      std::string bad = whole;
      bad[i] = static_cast<char>(bad[i] ^ (1 << bit));
      test::write_bytes(path, bad);
      if (i + 1 == whole.size()) {
        EXPECT_THROW(Journal::read(path), FormatError) << "a whole record without its newline, but with another byte";
      } else {
        EXPECT_EQ(Journal::read(path).size(), 4U) << "byte " << i << " bit " << bit;
      }
    }
  }
}

TEST(Journal, LostRepeatedOrSwappedLinesAreFound) {
  const TemporaryFolder folder;
  const std::string whole = make_journal(folder / "whole", 4);
  const std::vector<std::size_t> starts = line_starts(whole);
  const auto line = [&](std::size_t i) { return whole.substr(starts[i], starts[i + 1] - starts[i]); };
  for (const std::string& bad : {line(0) + line(2) + line(3), line(0) + line(1) + line(1) + line(2),
                                 line(1) + line(0) + line(2), line(0) + "\n" + line(1)}) {
    test::write_bytes(folder / "j", bad);
    EXPECT_THROW(Journal::read(folder / "j"), FormatError);
  }
}

TEST(Journal, HostileTailIsReadInBoundedTime) {
  const TemporaryFolder folder;
  test::write_bytes(folder / "j", "1 0123456789abcdef " + std::string(std::size_t{8} << 20, '}'));
  EXPECT_TRUE(Journal::read(folder / "j").empty());
}

TEST(Journal, ValidLineThatIsNoObjectIsRefused) {
  const TemporaryFolder folder;
  const std::string deep = std::string(5000, '[') + std::string(5000, ']');
  for (const std::string& payload : {std::string("[1]"), std::string("nonsense"), deep}) {
    test::write_bytes(folder / "j", "1 " + core::sha256("1 " + payload).substr(0, 16) + " " + payload + "\n");
    EXPECT_THAT(message_of<FormatError>([&] { Journal::read(folder / "j"); }), HasSubstr("line 1"));
  }
}

TEST(Journal, RefusesRecordsThatAreNoObjects) {
  const TemporaryFolder folder;
  TestJournal journal(folder / "j");
  EXPECT_THROW(journal.append(Json{1, 2}), core::InternalError);
  EXPECT_EQ(test::read_bytes(folder / "j"), "");
}

TEST(Journal, TextThatIsNotUtf8IsStillWritten) {
  const TemporaryFolder folder;
  {
    TestJournal journal(folder / "j");
    journal.append(Json{{"error", "file \xFF\xFE"}});
  }
  EXPECT_EQ(Journal::read(folder / "j").size(), 1U);
}

TEST(Journal, LaterWriterHasTheFileForItself) {
  const TemporaryFolder folder;
  TestJournal first(folder / "j");
  first.append(record(0));
  TestJournal second(folder / "j");
  EXPECT_EQ(second.records().size(), 1U);
  second.append(record(1));
  // One that was cut off and goes on writes into a file that has no name any more.
  first.append(record(100));
  second.append(record(2));
  const std::vector<Json> all = Journal::read(folder / "j");
  ASSERT_EQ(all.size(), 3U);
  for (int i = 0; i < 3; ++i) EXPECT_EQ(all[static_cast<std::size_t>(i)], record(i));
  EXPECT_EQ(test::entries(folder.path()), 1);
}

TEST(Journal, KilledWriterLeavesEveryAppendedRecord) {
  const TemporaryFolder folder;
  int pipe[2];
  ASSERT_EQ(::pipe(pipe), 0);
  const pid_t child = ::fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    TestJournal journal(folder / "j");
    for (int i = 0;; ++i) {
      journal.append(record(i));
      if (::write(pipe[1], "x", 1) != 1) ::_exit(1);
    }
  }
  char byte;
  for (int i = 0; i < 20; ++i) ASSERT_EQ(::read(pipe[0], &byte, 1), 1);
  ::kill(child, SIGKILL);
  ::waitpid(child, nullptr, 0);
  ::close(pipe[0]);
  ::close(pipe[1]);
  const TestJournal journal(folder / "j");
  EXPECT_GE(journal.records().size(), 20U);
  for (std::size_t i = 0; i < journal.records().size(); ++i)
    EXPECT_EQ(journal.records()[i], record(static_cast<int>(i)));
}

TEST(Journal, UnwritablePlaceIsASystemError) {
  EXPECT_THAT(message_of<StoreError>([] { const TestJournal journal("/dev/null/journal.log"); }),
              HasSubstr("/dev/null/journal.log"));
  EXPECT_THROW(Journal::read("/nowhere/journal.log"), StoreError);
}

TEST(Journal, FullDiskTakesTheRecordBackAndSpaceHelps) {
  const test::SmallDisk disk("size=64k");
  if (!disk.mounted()) VORONOI_SKIP_MACHINE(disk.why());
  const auto path = disk / "j";
  TestJournal journal(path);
  journal.append(record(0));
  test::write_bytes(disk / "filler", std::string(1 << 20, 'x'));
  const Json big{{"text", std::string(20000, 'y')}};
  EXPECT_THAT(message_of<StoreError>([&] { journal.append(big); }),
              testing::AllOf(HasSubstr(path.string()), HasSubstr("No space left"), HasSubstr("free some space")));
  EXPECT_EQ(Journal::read(path).size(), 1U);
  // What was only added stays for the next try.
  journal.add(record(1));
  journal.add(big);
  EXPECT_THROW(journal.commit(), StoreError);
  EXPECT_EQ(Journal::read(path).size(), 1U);
  std::filesystem::remove(disk / "filler");
  journal.append(record(2));
  EXPECT_EQ(Journal::read(path), (std::vector<Json>{record(0), record(1), big, record(2)}));
}

TEST(Journal, AddedRecordsAreOnDiskAfterTheCommitInTheirOrder) {
  const TemporaryFolder folder;
  TestJournal journal(folder / "j");
  for (int i = 0; i < 5; ++i) journal.add(record(i));
  EXPECT_TRUE(Journal::read(folder / "j").empty());
  journal.commit();
  journal.commit();
  EXPECT_EQ(Journal::read(folder / "j").size(), 5U);
  journal.add(record(5));
  journal.append(record(6));
  const std::vector<Json> all = Journal::read(folder / "j");
  ASSERT_EQ(all.size(), 7U);
  for (int i = 0; i < 7; ++i) EXPECT_EQ(all[static_cast<std::size_t>(i)], record(i));
}

}  // namespace
}  // namespace voronoi::store
