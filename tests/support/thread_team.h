// A core::Team whose members are threads of this process: collective code is tested without MPI.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <exception>
#include <functional>
#include <mutex>
#include <span>
#include <thread>
#include <vector>

#include "core/error.h"
#include "core/team.h"

namespace voronoi::test {

/// The meeting point of the members. A member that leaves by an exception wakes the others, which then throw CommError.
class TeamRoom {
 public:
  explicit TeamRoom(int size) : size_(size), parts_(static_cast<std::size_t>(size)) {}
  int size() const { return size_; }

  std::vector<std::vector<std::byte>> all_gather(int rank, std::span<const std::byte> mine) {
    std::unique_lock lock(mutex_);
    // The slowest member of the round before may still be copying.
    changed_.wait(lock, [&] { return failed_ || leaving_ == 0; });
    require_all_here();
    parts_[static_cast<std::size_t>(rank)].assign(mine.begin(), mine.end());
    const std::size_t round = round_;
    if (++arrived_ == size_) {
      arrived_ = 0;
      leaving_ = size_;
      ++round_;
      changed_.notify_all();
    }
    changed_.wait(lock, [&] { return failed_ || round_ != round; });
    if (round_ == round) require_all_here();
    std::vector<std::vector<std::byte>> all = parts_;
    if (--leaving_ == 0) changed_.notify_all();
    return all;
  }

  void fail() {
    const std::lock_guard lock(mutex_);
    failed_ = true;
    changed_.notify_all();
  }

 private:
  void require_all_here() const {
    if (failed_) throw core::CommError("another member of the team has failed");
  }

  int size_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<std::vector<std::byte>> parts_;
  int arrived_ = 0, leaving_ = 0;
  std::size_t round_ = 0;
  bool failed_ = false;
};

class TeamMember final : public core::Team {
 public:
  TeamMember(TeamRoom& room, int rank) : room_(room), rank_(rank) {}
  int rank() const override { return rank_; }
  int size() const override { return room_.size(); }
  std::vector<std::vector<std::byte>> all_gather(std::span<const std::byte> mine) override {
    return room_.all_gather(rank_, mine);
  }

 private:
  TeamRoom& room_;
  int rank_;
};

/// Runs body(team) once for each of `size` members, each on its own thread; rethrows the exception of the lowest rank
/// that has one of its own.
inline void run_as_team(int size, const std::function<void(core::Team&)>& body) {
  TeamRoom room(size);
  std::vector<std::exception_ptr> errors(static_cast<std::size_t>(size));
  std::vector<std::thread> threads;
  for (int rank = 0; rank < size; ++rank) {
    threads.emplace_back([&, rank] {
      TeamMember team(room, rank);
      try {
        body(team);
      } catch (...) {
        errors[static_cast<std::size_t>(rank)] = std::current_exception();
        room.fail();
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  std::exception_ptr told;
  for (const std::exception_ptr& error : errors) {
    if (!error) continue;
    try {
      std::rethrow_exception(error);
    } catch (const core::CommError&) {
      told = error;
    } catch (...) {
      std::rethrow_exception(error);
    }
  }
  if (told) std::rethrow_exception(told);
}

}  // namespace voronoi::test
