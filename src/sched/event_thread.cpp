#include "sched/event_thread.h"

#include <time.h>

#include <chrono>
#include <utility>

namespace voronoi::sched {
namespace {

// A disk that stalls must not fill the memory with reports.
constexpr std::size_t kMostQueued = 4096;
// Syncs cost, also others who write to the same disk: what is done waits so long at most for more to be synced with it.
constexpr std::chrono::milliseconds kGathering{20};

}  // namespace

double thread_cpu_seconds() {
  timespec time{};
  ::clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
  return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

EventThread::EventThread(const CoordinatorEvents& events) : events_(events), thread_([this] { run(); }) {}

EventThread::~EventThread() { join(); }

double EventThread::join() {
  {
    const std::lock_guard lock(mutex_);
    leaving_ = true;
  }
  changed_.notify_all();
  if (thread_.joinable()) thread_.join();
  return cpu_seconds_;
}

CoordinatorEvents EventThread::posting() {
  CoordinatorEvents posting;
  if (events_.task_done)
    posting.task_done = [this](const Task& task, const Outcome& outcome, int rank) {
      post([this, &task, outcome, rank] { events_.task_done(task, outcome, rank); });
    };
  if (events_.task_failed)
    posting.task_failed = [this](const Task& task, const Outcome& outcome, int rank, int number) {
      post([this, &task, outcome, rank, number] { events_.task_failed(task, outcome, rank, number); });
    };
  if (events_.task_quarantined)
    posting.task_quarantined = [this](const Task& task, const std::string& error) {
      post([this, &task, error] { events_.task_quarantined(task, error); });
    };
  if (events_.rank_left_out)
    posting.rank_left_out = [this](int rank, const std::string& error) {
      post([this, rank, error] { events_.rank_left_out(rank, error); });
    };
  if (events_.task_overdue)
    posting.task_overdue = [this](const Task& task, int rank, double seconds, int other) {
      post([this, &task, rank, seconds, other] { events_.task_overdue(task, rank, seconds, other); });
    };
  if (events_.progress)
    posting.progress = [this](const Progress& progress) { post([this, progress] { events_.progress(progress); }); };
  posting.commit = [this] { commit(); };
  return posting;
}

void EventThread::post(std::function<void()> event) {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [this] { return queue_.size() < kMostQueued || error_ != nullptr; });
  if (error_ != nullptr) std::rethrow_exception(error_);
  queue_.push_back(std::move(event));
  if (queue_.size() > 1 && queue_.size() < kMostQueued) return;  // it is awake
  lock.unlock();
  changed_.notify_all();
}

void EventThread::commit() {
  std::unique_lock lock(mutex_);
  hurry_ = true;
  changed_.notify_all();
  changed_.wait(lock, [this] { return (queue_.empty() && !working_) || error_ != nullptr; });
  if (error_ != nullptr) std::rethrow_exception(error_);
}

void EventThread::run() {
  std::unique_lock lock(mutex_);
  for (;;) {
    changed_.wait(lock, [this] { return leaving_ || (!queue_.empty() && error_ == nullptr); });
    changed_.wait_for(lock, kGathering, [this] { return leaving_ || hurry_ || queue_.size() == kMostQueued; });
    if (leaving_) break;
    std::deque<std::function<void()>> batch = std::exchange(queue_, {});
    working_ = true;
    lock.unlock();
    changed_.notify_all();
    std::exception_ptr error;
    try {
      for (const auto& event : batch) event();
      if (events_.commit) events_.commit();
    } catch (...) {
      error = std::current_exception();
    }
    lock.lock();
    working_ = false;
    error_ = error;
    changed_.notify_all();
  }
  cpu_seconds_ = thread_cpu_seconds();
}

}  // namespace voronoi::sched
