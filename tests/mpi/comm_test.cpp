#include <gtest/gtest.h>

#include <chrono>
#include <cmath>
#include <ctime>
#include <thread>

#include "comm/common_stop.h"
#include "comm/mpi.h"
#include "comm/mpi_team.h"
#include "core/error.h"

namespace voronoi::comm {
namespace {

constexpr std::size_t kBigBytes = (std::size_t{1} << 27) + 5;  // more than two pieces

std::vector<std::byte> pattern(std::size_t n, int seed) {
  std::vector<std::byte> bytes(n);
  for (std::size_t i = 0; i < n; ++i)
    bytes[i] = static_cast<std::byte>((i * 31 + (i >> 20) + static_cast<std::size_t>(seed)) & 0xff);
  return bytes;
}

double thread_cpu_seconds() {
  timespec time{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
  return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

void sleep_seconds(double seconds) { std::this_thread::sleep_for(std::chrono::duration<double>(seconds)); }

TEST(Communicator, BroadcastReachesAllRanksFromAnyRoot) {
  const auto world = Communicator::world();
  for (int root = 0; root < world.size(); ++root) {
    for (const std::size_t n :
         {std::size_t{0}, std::size_t{1}, std::size_t{4096}, std::size_t{4097}, std::size_t{1000003}}) {
      auto bytes = world.rank() == root ? pattern(n, root) : std::vector<std::byte>(n);
      world.broadcast(bytes, root);
      EXPECT_EQ(bytes, pattern(n, root));
    }
    EXPECT_EQ(world.broadcast(world.rank() == root ? "from " + std::to_string(root) : "mine", root),
              "from " + std::to_string(root));
    EXPECT_EQ(world.broadcast(world.rank() == root ? std::string() : "mine", root), "");
  }
}

TEST(Communicator, GathersKeepBytesOfAnySizeInOrderOfRank) {
  const auto world = Communicator::world();
  const auto size_of = [](int rank, int round) {
    return static_cast<std::size_t>(rank * round * 1001 + (rank == 0 ? round % 2 : 0));
  };
  for (int round = 0; round < 4; ++round) {
    const auto mine = pattern(size_of(world.rank(), round), world.rank());
    const auto everywhere = world.all_gather(mine);
    const auto at_last = world.gather(mine, world.size() - 1);
    ASSERT_EQ(std::ssize(everywhere), world.size());
    EXPECT_EQ(std::ssize(at_last), world.rank() == world.size() - 1 ? world.size() : 0);
    for (int rank = 0; rank < world.size(); ++rank) {
      const auto expected = pattern(size_of(rank, round), rank);
      EXPECT_EQ(everywhere[static_cast<std::size_t>(rank)], expected);
      if (!at_last.empty()) {
        EXPECT_EQ(at_last[static_cast<std::size_t>(rank)], expected);
      }
    }
  }
}

TEST(Communicator, MessagesLargerThanAPieceArriveWhole) {
  const auto world = Communicator::world();
  const int last = world.size() - 1;
  const auto whole = pattern(kBigBytes, 3);
  auto received = world.rank() == last ? whole : std::vector<std::byte>(kBigBytes);
  world.broadcast(received, last);
  EXPECT_TRUE(received == whole);
  const auto gathered =
      world.gather(world.rank() == last ? std::span<const std::byte>(whole) : std::span<const std::byte>(), 0);
  if (world.rank() == 0) {
    EXPECT_TRUE(gathered[static_cast<std::size_t>(last)] == whole);
  }
  if (world.size() == 1) return;
  // Exactly full pieces need an empty one behind them; the small message behind must not be taken for a part.
  const std::span<const std::byte> full = std::span(whole).first(std::size_t{1} << 27);
  const auto small = pattern(10, 9);
  if (world.rank() == 0) {
    world.send(whole, last, 4);
    world.send(full, last, 4);
    world.send(small, last, 4);
  } else if (world.rank() == last) {
    EXPECT_TRUE(world.receive(0, 4) == whole);
    MessageInfo info;
    const auto second = world.receive_any(info);
    EXPECT_EQ(second->size(), full.size());
    EXPECT_EQ(info.tag, 4);
    EXPECT_EQ(world.receive(0, 4), small);
  }
}

TEST(Communicator, PostedMessagesArriveInOrderAndNobodyWaitsForTheReceiver) {
  const auto world = Communicator::world();
  constexpr int kMessages = 500;
  const int last = world.size() - 1;
  const auto message = [](int i) { return pattern(static_cast<std::size_t>(i % 100 == 99 ? 9000 : 1000 + i), i % 7); };
  const auto copy = world.duplicate();
  if (world.rank() == last && last > 0)
    for (int i = 0; i < kMessages; ++i) {
      copy.post(message(i), 0, 5);
      // Nobody receives before this rank has posted the short messages that come first.
      if (i == 50) world.send({}, 0, 6);
    }
  if (world.rank() == 0 && last > 0) {
    world.receive(last, 6);
    for (int i = 0; i < kMessages; ++i) ASSERT_EQ(copy.receive(last, 5), message(i));
  }
  world.barrier();
}

TEST(Communicator, MaximumIsThatOfAllRanks) {
  const auto world = Communicator::world();
  EXPECT_EQ(world.all_max(world.rank() - 10), world.size() - 11);
  EXPECT_EQ(world.all_max(world.rank() == 0 ? INT64_MAX : INT64_MIN), INT64_MAX);
}

TEST(Communicator, ReceiveAnyTellsSourceAndTagAndObeysStop) {
  const auto world = Communicator::world();
  if (world.rank() > 0) {
    world.send(pattern(static_cast<std::size_t>(world.rank()), 0), 0, 10 + world.rank());
  } else {
    int n_received = 0, n_polls = 0;
    for (; n_received < world.size() - 1; ++n_received) {
      MessageInfo info;
      const auto bytes = world.receive_any(info);
      ASSERT_TRUE(bytes.has_value());
      EXPECT_EQ(info.tag, 10 + info.source);
      EXPECT_EQ(std::ssize(*bytes), info.source);
    }
    MessageInfo info;
    EXPECT_FALSE(world.receive_any(info, [&] { return ++n_polls == 5; }).has_value());
    EXPECT_EQ(n_polls, 5);
  }
  world.barrier();
}

TEST(Communicator, DuplicatesHaveTheirOwnMessages) {
  const auto world = Communicator::world();
  const auto copy = world.duplicate();
  const int next = (world.rank() + 1) % world.size(), previous = (world.rank() + world.size() - 1) % world.size();
  world.send(pattern(3, 1), next, 0);
  copy.send(pattern(4, 1), next, 0);
  EXPECT_EQ(copy.receive(previous, 0).size(), 4U);
  EXPECT_EQ(world.receive(previous, 0).size(), 3U);
}

TEST(Communicator, ASubgroupConcernsItsMembersOnly) {
  const auto world = Communicator::world();
  const int last = world.size() - 1;
  if (world.rank() == last || world.rank() == 0) {
    const auto ranks = last == 0 ? std::vector<int>{0} : std::vector<int>{0, last};
    const auto group = world.subgroup(ranks, 7);
    EXPECT_EQ(group.size(), std::ssize(ranks));
    EXPECT_EQ(group.rank(), world.rank() == 0 ? 0 : 1);
    EXPECT_EQ(group.all_max(world.rank()), last);
  }
  world.barrier();
}

TEST(Communicator, LocalRanksCountThisHost) {
  const auto world = Communicator::world();
  const LocalRanks local = local_ranks(world);
  EXPECT_EQ(local.size, world.size());  // these tests run on one machine
  EXPECT_EQ(local.rank, world.rank());
}

TEST(Communicator, MpiErrorsAreExceptions) {
  const auto world = Communicator::world();
  EXPECT_THROW(world.send({}, world.size(), 0), core::CommError);
  EXPECT_THROW(world.send({}, 0, -3), core::Error);
}

TEST(Communicator, WaitingLeavesTheCoreToOthers) {
  const auto world = Communicator::world();
  world.barrier();
  const double before = thread_cpu_seconds();
  if (world.rank() == 0) {
    sleep_seconds(0.5);
    if (world.size() > 1) world.send(pattern(1, 0), 1, 2);
  } else if (world.rank() == 1) {
    world.receive(0, 2);
  }
  world.barrier();
  // A waiting rank that spins uses as many seconds as it waits.
  EXPECT_LT(thread_cpu_seconds() - before, 0.2);
}

TEST(Communicator, ThreadsOfOneRankDoNotTakeEachOthersMessages) {
  const auto world = Communicator::world();
  constexpr int kThreads = 3, kMessages = 200;
  std::vector<std::thread> threads;
  std::vector<int> wrong(kThreads, 0);
  const int next = (world.rank() + 1) % world.size(), previous = (world.rank() + world.size() - 1) % world.size();
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < kMessages; ++i) {
        world.send(pattern(static_cast<std::size_t>(100 * t + i), t), next, 20 + t);
        if (world.receive(previous, 20 + t) != pattern(static_cast<std::size_t>(100 * t + i), t))
          ++wrong[static_cast<std::size_t>(t)];
      }
    });
  }
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(wrong, std::vector<int>(kThreads, 0));
  world.barrier();
}

std::vector<int> all_ranks(const Communicator& world) {
  std::vector<int> ranks;
  for (int rank = 0; rank < world.size(); ++rank) ranks.push_back(rank);
  return ranks;
}

TEST(MpiTeam, GathersBytesAndEndsWell) {
  const auto world = Communicator::world();
  MpiTeam team(world, all_ranks(world), 1);
  EXPECT_EQ(team.rank(), world.rank());
  EXPECT_EQ(team.size(), world.size());
  for (int round = 0; round < 50; ++round) {
    const auto all = team.all_gather(pattern(static_cast<std::size_t>(round * (world.rank() + 1)), world.rank()));
    for (int rank = 0; rank < world.size(); ++rank)
      EXPECT_EQ(all[static_cast<std::size_t>(rank)], pattern(static_cast<std::size_t>(round * (rank + 1)), rank));
  }
  team.finish();
  EXPECT_TRUE(team.verdict().ok);
  EXPECT_THROW(team.all_gather({}), core::Error);
}

/// Of an array that a member gives: sums of such values depend on their order.
std::vector<double> array_of(std::int64_t array, std::int64_t size) {
  std::vector<double> values;
  for (std::int64_t i = 0; i < size; ++i)
    values.push_back(std::ldexp(std::sin(static_cast<double>(7 * array + i)), static_cast<int>((array + i) % 60)));
  return values;
}

TEST(MpiTeam, SumsHaveTheBitsOfOneMember) {
  const auto world = Communicator::world();
  MpiTeam team(world, all_ranks(world), 5);
  const std::int64_t n = world.size();
  for (const std::int64_t n_arrays : {std::int64_t{1}, n, 3 * n + 1})
    for (const std::int64_t size : {1, 2, 1000, 70001}) {
      const std::int64_t first = n_arrays * world.rank() / n, last = n_arrays * (world.rank() + 1) / n;
      std::vector<double> mine, expected(static_cast<std::size_t>(size), 0.0);
      for (std::int64_t array = 0; array < n_arrays; ++array) {
        const std::vector<double> values = array_of(array, size);
        if (array >= first && array < last) mine.insert(mine.end(), values.begin(), values.end());
        for (std::size_t i = 0; i < values.size(); ++i) expected[i] += values[i];
      }
      EXPECT_EQ(team.sum(mine, size, n_arrays), expected) << n_arrays << " arrays of " << size;
    }
  team.finish();
}

TEST(MpiTeam, OfASumEveryMemberCarriesASlice) {
  const auto world = Communicator::world();
  MpiTeam team(world, all_ranks(world), 6);
  const std::int64_t n = world.size(), of_each = 8;
  constexpr std::int64_t kSize = 20000;
  team.sum(std::vector<double>(static_cast<std::size_t>(of_each * kSize), 1.0), kSize, of_each * n);
  team.finish();
  // Slices of its arrays to the others, and its slice of the sum; whole arrays would be of_each * (n - 1).
  const double arrays = static_cast<double>(n - 1) / static_cast<double>(n) * static_cast<double>(of_each + 1);
  for (const std::int64_t bytes : {team.traffic().sent, team.traffic().received})
    EXPECT_NEAR(static_cast<double>(bytes), 8.0 * kSize * arrays, 8.0 * static_cast<double>(n * (of_each + 1)));
}

TEST(MpiTeam, BroadcastsOfAnyMemberReachTheOthers) {
  const auto world = Communicator::world();
  MpiTeam team(world, all_ranks(world), 7);
  for (int root = 0; root < world.size(); ++root) {
    std::vector<std::byte> bytes = world.rank() == root ? pattern(100001, root) : std::vector<std::byte>(100001);
    team.broadcast(bytes, root);
    EXPECT_EQ(bytes, pattern(100001, root));
  }
  if (world.size() > 1 && world.rank() == 1) {
    team.fail(core::ExitCode::data, "no pivot");
  } else if (world.size() > 1) {
    std::vector<double> one(1);
    EXPECT_THROW(team.sum(one, 1, world.size()), core::Error);
  }
}

/// The rank `failing` fails after `calls` collectives, the others go on for five and finish.
TeamVerdict fail_after(const Communicator& world, int failing, int calls, core::ExitCode code, std::string& caught) {
  MpiTeam team(world, all_ranks(world), 2);
  try {
    for (int call = 0; call < 5; ++call) {
      if (world.rank() == failing && call == calls) throw core::Error(code, "pivot is not positive");
      team.all_gather(pattern(100, call));
    }
    if (world.rank() == failing && calls == 5) throw core::Error(code, "pivot is not positive");
    team.finish();
  } catch (const core::Error& error) {
    caught = error.what();
    EXPECT_EQ(error.exit_code(), code);
    team.fail(error.exit_code(), error.what());
  }
  return team.verdict();
}

TEST(MpiTeam, AMemberThatFailsAtAnyMomentEndsTheWorkOfAllWithItsText) {
  const auto world = Communicator::world();
  for (int failing = 0; failing < world.size(); ++failing) {
    for (const int calls : {0, 1, 4, 5}) {
      std::string caught;
      const auto verdict = fail_after(world, failing, calls, core::ExitCode::data, caught);
      EXPECT_FALSE(verdict.ok);
      EXPECT_EQ(verdict.code, core::ExitCode::data);
      EXPECT_EQ(verdict.failed_ranks, std::vector<int>{failing});
      EXPECT_EQ(verdict.text, "rank " + std::to_string(failing) + ": pivot is not positive");
      EXPECT_EQ(caught, world.rank() == failing ? "pivot is not positive" : verdict.text);
    }
  }
}

TEST(MpiTeam, AStopOfOneMemberStopsAllUnlessAnotherFails) {
  const auto world = Communicator::world();
  std::string caught;
  EXPECT_EQ(fail_after(world, world.size() - 1, 2, core::ExitCode::stopped, caught).code, core::ExitCode::stopped);
  if (world.size() == 1) return;
  MpiTeam team(world, all_ranks(world), 3);
  if (world.rank() == 1)
    team.fail(core::ExitCode::data, "bad");
  else
    team.fail(core::ExitCode::stopped, "stopped");
  EXPECT_EQ(team.verdict().code, core::ExitCode::data);
  EXPECT_EQ(std::ssize(team.verdict().failed_ranks), world.size());
}

TEST(MpiTeam, MembersThatMakeDifferentCallsFailInsteadOfWaiting) {
  const auto world = Communicator::world();
  if (world.size() == 1) return;  // it cannot disagree
  MpiTeam team(world, all_ranks(world), 4);
  if (world.rank() == 0)
    EXPECT_THROW(team.finish(), core::Error);
  else
    EXPECT_THROW(team.all_gather({}), core::Error);
  EXPECT_FALSE(team.verdict().ok);
  EXPECT_NE(team.verdict().text.find("1 of " + std::to_string(world.size())), std::string::npos);
}

TEST(CommonStop, ReachesRanksInTheMiddleOfTheirWork) {
  const auto world = Communicator::world();
  const bool last = world.rank() == world.size() - 1;
  bool wanted = false;
  CommonStop stop(world, [&] { return last && wanted; });
  for (int round = 0; round < 3; ++round) {
    for (int look = 0; look < 5; ++look) EXPECT_FALSE(stop.asked());
    EXPECT_FALSE(stop.agreed());
  }
  wanted = true;
  while (!stop.asked()) sleep_seconds(1e-4);
  EXPECT_TRUE(stop.agreed());
  EXPECT_TRUE(stop.asked());
}

TEST(CommonStop, OfAllRanksAtOnceAndOfOneWhileTheOthersAreDone) {
  const auto world = Communicator::world();
  CommonStop all(world, [] { return true; }), one(world, [&] { return world.rank() == 0; });
  EXPECT_TRUE(all.asked());
  EXPECT_TRUE(all.agreed());
  if (world.rank() == 0) {
    EXPECT_TRUE(one.asked());
  }
  EXPECT_TRUE(one.agreed());
  EXPECT_TRUE(one.agreed());
  CommonStop nobody(world, nullptr);
  EXPECT_FALSE(nobody.asked());
  EXPECT_FALSE(nobody.agreed());
}

}  // namespace
}  // namespace voronoi::comm
