#include "core/thread_pool.h"

#include <atomic>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

#include "core/error.h"

namespace voronoi::core {
namespace {
thread_local bool inside_parallel_for = false;
}

struct ThreadPool::State {
  std::mutex mutex;
  std::condition_variable wake, finished;
  std::vector<std::thread> threads;
  std::uint64_t generation = 0;
  bool stop = false;
  const std::function<void(std::int64_t)>* body = nullptr;
  std::int64_t n = 0;
  std::atomic<std::int64_t> next{0};
  int running = 0;
  std::exception_ptr error;

  void work() {
    inside_parallel_for = true;
    for (std::int64_t i = next.fetch_add(1); i < n; i = next.fetch_add(1)) {
      try {
        (*body)(i);
      } catch (...) {
        const std::lock_guard lock(mutex);
        if (!error) error = std::current_exception();
      }
    }
    inside_parallel_for = false;
  }

  void loop() {
    std::uint64_t seen = 0;
    for (;;) {
      {
        std::unique_lock lock(mutex);
        wake.wait(lock, [&] { return stop || generation != seen; });
        if (stop) return;
        seen = generation;
      }
      work();
      const std::lock_guard lock(mutex);
      if (--running == 0) finished.notify_one();
    }
  }
};

ThreadPool::ThreadPool(int n_threads) : n_threads_(n_threads), state_(std::make_unique<State>()) {
  VORONOI_REQUIRE(n_threads >= 1, "a pool has at least the calling thread");
  for (int i = 1; i < n_threads; ++i) state_->threads.emplace_back([this] { state_->loop(); });
}

ThreadPool::~ThreadPool() {
  {
    const std::lock_guard lock(state_->mutex);
    state_->stop = true;
  }
  state_->wake.notify_all();
  for (std::thread& thread : state_->threads) thread.join();
}

void ThreadPool::parallel_for(std::int64_t n, const std::function<void(std::int64_t)>& body) {
  if (n <= 0) return;
  if (inside_parallel_for || n == 1 || n_threads_ == 1) {
    for (std::int64_t i = 0; i < n; ++i) body(i);
    return;
  }
  {
    const std::lock_guard lock(state_->mutex);
    state_->body = &body;
    state_->n = n;
    state_->next = 0;
    state_->error = nullptr;
    state_->running = n_threads_ - 1;
    ++state_->generation;
  }
  state_->wake.notify_all();
  state_->work();
  std::exception_ptr error;
  {
    std::unique_lock lock(state_->mutex);
    state_->finished.wait(lock, [&] { return state_->running == 0; });
    error = state_->error;
    state_->body = nullptr;
  }
  if (error) std::rethrow_exception(error);
}

}  // namespace voronoi::core
