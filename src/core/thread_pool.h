// A fixed set of threads for data-parallel loops. Work is cut by the caller into pieces that do not depend on the
// thread count, so results do not either.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>

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
  /// runs the inner loop on its own thread. One caller at a time.
  void parallel_for(std::int64_t n, const std::function<void(std::int64_t)>& body);

 private:
  struct State;
  int n_threads_;
  std::unique_ptr<State> state_;
};

}  // namespace voronoi::core
