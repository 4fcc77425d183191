#include "store/run_lock.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <sys/file.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>

#include "core/error.h"
#include "core/json.h"
#include "support/temporary.h"

namespace voronoi::store {
namespace {

namespace fs = std::filesystem;
using core::StoreError;
using test::message_of;
using test::TemporaryFolder;
using testing::AllOf;
using testing::HasSubstr;

/// Sets variables as Slurm does, and takes them back.
class JobEnvironment {
 public:
  JobEnvironment(const char* job, const char* restart) {
    ::setenv("SLURM_CLUSTER_NAME", "testc", 1);
    ::setenv("SLURM_JOB_ID", job, 1);
    ::setenv("SLURM_RESTART_COUNT", restart, 1);
  }
  ~JobEnvironment() {
    for (const char* name : {"SLURM_CLUSTER_NAME", "SLURM_JOB_ID", "SLURM_RESTART_COUNT"}) ::unsetenv(name);
  }
  JobEnvironment(const JobEnvironment&) = delete;
  JobEnvironment& operator=(const JobEnvironment&) = delete;
};

/// A lock that the server of a network file system still holds for a process of another host: the record says so.
class RemoteLock {
 public:
  RemoteLock(const RunPaths& paths, core::Json changes) {
    core::Json record{{"host", "node3"},    {"pid", 12},   {"boot", "another"}, {"pid_namespace", "pid:[1]"},
                      {"cluster", "testc"}, {"job", "77"}, {"restart", 1},      {"start", "2026-01-02T03:04:05Z"}};
    record.update(changes);
    test::write_bytes(paths.lock(), record.dump() + "\n");
    descriptor_ = ::open(paths.lock().c_str(), O_RDWR | O_CLOEXEC);
    if (::flock(descriptor_, LOCK_EX | LOCK_NB) != 0) throw std::runtime_error("cannot lock");
  }
  ~RemoteLock() { ::close(descriptor_); }
  RemoteLock(const RemoteLock&) = delete;
  RemoteLock& operator=(const RemoteLock&) = delete;

 private:
  int descriptor_;
};

/// A squeue that answers as told, first on the PATH.
class FakeSqueue {
 public:
  FakeSqueue(const std::string& answer, int status) : path_(std::getenv("PATH")) {
    test::write_bytes(folder_ / "squeue", "#!/bin/sh\necho \"$@\" >" + (folder_ / "arguments").string() +
                                              "\nprintf '%s' '" + answer + "'\nexit " + std::to_string(status) + "\n");
    fs::permissions(folder_ / "squeue", fs::perms::owner_all);
    ::setenv("PATH", (folder_.path().string() + ":" + path_).c_str(), 1);
  }
  ~FakeSqueue() { ::setenv("PATH", path_.c_str(), 1); }
  FakeSqueue(const FakeSqueue&) = delete;
  FakeSqueue& operator=(const FakeSqueue&) = delete;
  std::string arguments() const { return test::read_bytes(folder_ / "arguments"); }

 private:
  TemporaryFolder folder_;
  std::string path_;
};

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
  EXPECT_THAT(message, AllOf(HasSubstr("is held by process " + std::to_string(owner)), HasSubstr(host),
                             HasSubstr("Slurm job 4711"), HasSubstr(folder.path().string()), HasSubstr("--run"),
                             HasSubstr("squeue -j 4711"), HasSubstr("remove " + paths.lock().string())));
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

TEST(RunLock, RecordOfAnotherHandCannotSteerATerminal) {
  const TemporaryFolder folder;
  const RunPaths paths{folder.path()};
  test::write_bytes(paths.lock(),
                    R"({"host":"\u001b[2J\n","pid":1e300,"boot":"","pid_namespace":"","cluster":"","job":"",)"
                    R"("restart":0,"start":""})");
  EXPECT_THAT(RunLock(paths).stale_holder().value_or(""), HasSubstr("unreadable"));
  test::write_bytes(paths.lock(), R"({"host":"\u001b[2J\n","pid":7,"boot":"","pid_namespace":"","cluster":"","job":"",)"
                                  R"("restart":0,"start":""})");
  EXPECT_THAT(RunLock(paths).stale_holder().value_or(""), HasSubstr("process 7 on \\x1b[2J\\x0a"));
}

TEST(RunLock, EarlierRunOfTheSameJobIsTakenOver) {
  const TemporaryFolder folder;
  const RunPaths paths{folder.path()};
  const RemoteLock held(paths, core::Json::object());
  {
    const JobEnvironment same("77", "1");
    EXPECT_THROW(const RunLock lock(paths), StoreError);
  }
  const JobEnvironment requeued("77", "2");
  const RunLock lock(paths);
  ASSERT_TRUE(lock.stale_holder().has_value());
  EXPECT_THAT(*lock.stale_holder(),
              AllOf(HasSubstr("process 12 on node3 (Slurm job 77, restart 1)"), HasSubstr("requeued")));
  // It holds for others, and nothing else is left.
  EXPECT_THAT(message_of<StoreError>([&] { const RunLock second(paths); }),
              HasSubstr("process " + std::to_string(::getpid())));
  EXPECT_EQ(test::entries(folder.path()), 1);
}

TEST(RunLock, JobThatSlurmSaysHasEndedIsTakenOver) {
  const TemporaryFolder folder;
  const RunPaths paths{folder.path()};
  const JobEnvironment job("78", "0");
  const struct {
    const char* answer;
    int status;
    bool over;
  } cases[] = {{"RUNNING\n", 0, false},
               {"COMPLETING\n", 0, false},
               {"NODE_FAIL\n", 0, true},
               {"PENDING\n", 0, true},
               {"COMPLETED\nRUNNING\n", 0, false},
               {"", 0, true},
               {"slurm_load_jobs error: Invalid job id specified\n", 1, true},
               {"slurm_load_jobs error: Unable to contact slurm controller\n", 1, false},
               {"not what squeue says\n", 0, false}};
  for (const auto& [answer, status, over] : cases) {
    const FakeSqueue squeue(answer, status);
    const RemoteLock held(paths, core::Json::object());
    if (over) {
      const RunLock lock(paths);
      ASSERT_TRUE(lock.stale_holder().has_value()) << answer;
      EXPECT_THAT(*lock.stale_holder(), HasSubstr("has ended, as Slurm says")) << answer;
    } else {
      EXPECT_THROW(const RunLock lock(paths), StoreError) << answer;
    }
    EXPECT_THAT(squeue.arguments(), HasSubstr("--jobs=77"));
  }
}

TEST(RunLock, NothingIsConcludedFromAnotherClusterOrAHostileRecord) {
  const TemporaryFolder folder;
  const RunPaths paths{folder.path()};
  const FakeSqueue squeue("", 0);
  const JobEnvironment job("78", "9");
  for (const core::Json& changes :
       {core::Json{{"cluster", "elsewhere"}}, core::Json{{"cluster", ""}}, core::Json{{"job", ""}},
        core::Json{{"job", "7;touch " + (folder / "x").string()}}, core::Json{{"job", 77}}}) {
    const RemoteLock held(paths, changes);
    EXPECT_THAT(message_of<StoreError>([&] { const RunLock lock(paths); }),
                AllOf(HasSubstr("is held by"), HasSubstr("remove " + paths.lock().string())))
        << changes;
  }
  EXPECT_EQ(test::entries(folder.path()), 1);
}

TEST(RunLock, ProcessOfThisBootThatIsGoneIsTakenOver) {
  const TemporaryFolder folder;
  const RunPaths paths{folder.path()};
  const pid_t gone = ::fork();
  if (gone == 0) ::_exit(0);
  siginfo_t information{};
  ASSERT_EQ(::waitid(P_PID, static_cast<id_t>(gone), &information, WEXITED | WNOWAIT), 0);
  core::Json record;
  {
    const RunLock lock(paths);
    record = core::parse_json(test::read_bytes(paths.lock()), "lock");
  }
  record["pid"] = gone;
  for (const bool waited_for : {false, true}) {
    if (waited_for) ::waitpid(gone, nullptr, 0);
    const RemoteLock held(paths, record);
    const RunLock lock(paths);
    ASSERT_TRUE(lock.stale_holder().has_value());
    EXPECT_THAT(*lock.stale_holder(), HasSubstr("that process has ended"));
  }
  for (const core::Json& changes :
       {core::Json{{"boot", "another"}}, core::Json{{"pid_namespace", "pid:[1]"}}, core::Json{{"pid", 1}}}) {
    core::Json other = record;
    other.update(changes);
    const RemoteLock held(paths, other);
    EXPECT_THROW(const RunLock lock(paths), StoreError) << changes;
  }
}

TEST(RunLock, WhatAKilledTakeOverLeftIsRemovedUnlessSomebodyIsAtIt) {
  const TemporaryFolder folder;
  const RunPaths paths{folder.path()};
  test::write_bytes(folder / "lock.json.tmp-node1-12", "{\"host\":");
  test::write_bytes(folder / "lock.json.tmp-node1-13", "");
  const int other = ::open((folder / "lock.json.tmp-node1-13").c_str(), O_RDWR | O_CLOEXEC);
  ASSERT_EQ(::flock(other, LOCK_EX | LOCK_NB), 0);
  { const RunLock lock(paths); }
  EXPECT_FALSE(fs::exists(folder / "lock.json.tmp-node1-12"));
  EXPECT_TRUE(fs::exists(folder / "lock.json.tmp-node1-13"));
  ::close(other);
  // The same when the lock itself is taken over.
  const RemoteLock held(paths, core::Json::object());
  const JobEnvironment requeued("77", "2");
  const RunLock lock(paths);
  EXPECT_EQ(test::entries(folder.path()), 1);
}

TEST(RunLock, RemovedLockFileOfALivingHolderIsNoLockAnyMore) {
  const TemporaryFolder folder;
  const RunPaths paths{folder.path()};
  const RemoteLock held(paths, core::Json::object());
  fs::remove(paths.lock());
  const RunLock lock(paths);
  EXPECT_FALSE(lock.stale_holder().has_value());
}

}  // namespace
}  // namespace voronoi::store
