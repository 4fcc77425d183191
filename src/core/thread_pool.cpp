#include "core/thread_pool.h"

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <exception>
#include <limits>
#include <mutex>
#include <string>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include "core/error.h"

namespace voronoi::core {
namespace {
thread_local bool inside_parallel_for = false, is_pool_thread = false;

/// Threads that wait look for so long before they sleep: waking one takes about as long, and the products of a single
/// token come in hundreds of pieces of less.
constexpr std::chrono::microseconds kLook{20};

/// Until `done`, or kLook has passed.
template <class Done>
void look_for(const Done& done) {
  constexpr int kLooksAClock = 32;
  const auto end = std::chrono::steady_clock::now() + kLook;
  do {
    for (int i = 0; i < kLooksAClock; ++i) {
      if (done()) return;
#if defined(__x86_64__)
      __builtin_ia32_pause();
#endif
    }
  } while (std::chrono::steady_clock::now() < end);
}

/// The exception of the lowest index, so that the message does not depend on the number of threads.
struct FirstError {
  std::int64_t index = 0;
  std::exception_ptr exception;
  void keep(std::int64_t i, std::exception_ptr thrown) {
    if (exception && index <= i) return;
    index = i;
    exception = std::move(thrown);
  }
};

}  // namespace

struct ThreadPool::State {
  std::mutex mutex;
  std::condition_variable wake, finished;
  std::vector<std::thread> threads;
  std::atomic<std::uint64_t> generation{0};
  bool stop = false;
  const std::function<void(std::int64_t)>* body = nullptr;
  std::int64_t n = 0;
  std::atomic<std::int64_t> next{0};
  std::atomic<int> running{0};
  FirstError error;

  using Clock = std::chrono::steady_clock;
  std::function<bool()> asked;
  std::chrono::nanoseconds interval{};
  Clock::time_point next_look;
  std::atomic<bool> stopped{false};

  /// Before each body. What is asked may not be for several threads.
  bool leave() {
    if (asked && !is_pool_thread && !stopped.load(std::memory_order_relaxed)) {
      if (const Clock::time_point now = Clock::now(); now >= next_look) {
        next_look = now + interval;
        if (asked()) stopped = true;
      }
    }
    return stopped.load(std::memory_order_relaxed);
  }

  /// One body, unless a stop was asked for. False: no further one.
  bool run(const std::function<void(std::int64_t)>& one, std::int64_t i, FirstError& errors) {
    const bool leaving = leave();
    std::exception_ptr thrown;
    try {
      if (leaving) throw StopRequested();
      one(i);
      return true;
    } catch (const StopRequested&) {
      thrown = std::current_exception();
      i = std::numeric_limits<std::int64_t>::max();  // hides no error
    } catch (...) {
      thrown = std::current_exception();
    }
    const std::lock_guard lock(mutex);
    errors.keep(i, std::move(thrown));
    return !leaving;
  }

  void work() {
    inside_parallel_for = true;
    for (std::int64_t i = next.fetch_add(1); i < n && run(*body, i, error); i = next.fetch_add(1)) {
    }
    inside_parallel_for = false;
  }

  void loop() {
    is_pool_thread = true;
    std::uint64_t seen = 0;
    for (;;) {
      look_for([&] { return generation != seen; });
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

  void end() {
    {
      const std::lock_guard lock(mutex);
      stop = true;
    }
    wake.notify_all();
    for (std::thread& thread : threads) thread.join();
  }
};

ThreadPool::ThreadPool(int n_threads) : n_threads_(n_threads), state_(std::make_unique<State>()) {
  VORONOI_REQUIRE(n_threads >= 1, "a pool has at least the calling thread");
  try {
    for (int i = 1; i < n_threads; ++i) state_->threads.emplace_back([state = state_.get()] { state->loop(); });
  } catch (const std::system_error& error) {
    state_->end();
    throw Error(ExitCode::system, "cannot start " + std::to_string(n_threads) + " threads: " + error.what() +
                                      "; ask for fewer, or raise the limit of processes (ulimit -u)");
  }
}

ThreadPool::~ThreadPool() { state_->end(); }

void ThreadPool::stop_when(std::function<bool()> stop, std::chrono::nanoseconds interval) {
  state_->asked = std::move(stop);
  state_->interval = interval;
  state_->next_look = {};
  state_->stopped = false;
}

void ThreadPool::parallel_for(std::int64_t n, const std::function<void(std::int64_t)>& body) {
  if (n <= 0) return;
  if (inside_parallel_for || n == 1 || n_threads_ == 1) {
    FirstError error;
    for (std::int64_t i = 0; i < n && state_->run(body, i, error); ++i) {
    }
    if (error.exception) std::rethrow_exception(error.exception);
    return;
  }
  {
    const std::lock_guard lock(state_->mutex);
    state_->body = &body;
    state_->n = n;
    state_->next = 0;
    state_->error = {};
    state_->running = n_threads_ - 1;
    ++state_->generation;
  }
  state_->wake.notify_all();
  state_->work();
  look_for([&] { return state_->running == 0; });
  std::exception_ptr error;
  {
    std::unique_lock lock(state_->mutex);
    state_->finished.wait(lock, [&] { return state_->running == 0; });
    error = std::exchange(state_->error, {}).exception;
    state_->body = nullptr;
  }
  if (error) std::rethrow_exception(error);
}

}  // namespace voronoi::core
