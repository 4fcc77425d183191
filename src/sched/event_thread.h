// The events of a phase on a thread of their own: they write to disks, and no rank is to wait for one.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <deque>
#include <exception>
#include <functional>
#include <mutex>
#include <thread>

#include "sched/scheduler.h"

namespace voronoi::sched {

/// CPU time of the calling thread.
double thread_cpu_seconds();

class EventThread {
 public:
  /// `events` must outlive it.
  explicit EventThread(const CoordinatorEvents& events);
  /// What has not begun is dropped.
  ~EventThread();
  EventThread(const EventThread&) = delete;
  EventThread& operator=(const EventThread&) = delete;

  /// For the coordinator. Its calls put an event into the queue and return at once, but wait while the queue is full;
  /// they throw the error of an earlier event, after which none is called any more. commit waits until all before it is
  /// committed.
  CoordinatorEvents posting();
  /// After the last commit: ends the thread; its CPU time.
  double join();

 private:
  void post(std::function<void()> event);
  void commit();
  void run();

  const CoordinatorEvents& events_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::function<void()>> queue_;
  bool working_ = false, leaving_ = false, hurry_ = false;  ///< hurry: the phase ends, nothing more will come
  std::exception_ptr error_;
  double cpu_seconds_ = 0;
  std::thread thread_;  // last: starts when all else is made
};

}  // namespace voronoi::sched
