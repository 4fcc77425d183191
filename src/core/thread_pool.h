// A fixed set of threads for data-parallel loops. Work is cut by the caller into pieces that do not depend on the
// thread count, so results do not either.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <utility>

namespace voronoi::core {

class ThreadPool {
 public:
  /// n_threads >= 1, the calling thread included.
  explicit ThreadPool(int n_threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int size() const { return n_threads_; }

  /// Runs body(i) for every i in [0, n), each exactly once, on any thread; returns when all are done. Of several
  /// exceptions the one of the lowest i is rethrown after all have ended. Not reentrant: a body that calls parallel_for
  /// runs the inner loop on its own thread. One caller at a time. Throws StopRequested once a stop was asked for (see
  /// stop_when): no body begins any more then.
  void parallel_for(std::int64_t n, const std::function<void(std::int64_t)>& body);

  /// Loops ask `stop` before a body, on the thread that calls parallel_for and at most once in `interval`; null: no
  /// stop ever. To be called between loops.
  void stop_when(std::function<bool()> stop, std::chrono::nanoseconds interval = kStopInterval);

  static constexpr std::chrono::milliseconds kStopInterval{20};

 private:
  struct State;
  int n_threads_;
  std::unique_ptr<State> state_;
};

/// The loops of a pool leave on a stop as long as this is there.
class StopScope {
 public:
  StopScope(ThreadPool& pool, std::function<bool()> stop) : pool_(pool) { pool_.stop_when(std::move(stop)); }
  ~StopScope() { pool_.stop_when(nullptr); }
  StopScope(const StopScope&) = delete;
  StopScope& operator=(const StopScope&) = delete;

 private:
  ThreadPool& pool_;
};

}  // namespace voronoi::core
