#include "run/hessian_writer.h"

#include <utility>

#include "calib/footprint.h"
#include "run/layer_store.h"

namespace voronoi::run {

HessianWriter::HessianWriter(const store::Start& start) : start_(start), thread_([this] { publish(); }) {}

HessianWriter::~HessianWriter() {
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

void HessianWriter::publish() {
  std::unique_lock lock(mutex_);
  for (;;) {
    changed_.wait(lock, [&] { return stop_ || file_; });
    if (!file_) return;
    lock.unlock();
    std::exception_ptr error;
    try {
      start_.publish(file_->path, file_->bytes);
    } catch (...) {
      error = std::current_exception();
    }
    lock.lock();
    file_.reset();
    error_ = error;
    changed_.notify_all();
    if (error) return;
  }
}

void HessianWriter::settle(std::unique_lock<std::mutex>& lock) {
  changed_.wait(lock, [&] { return !file_ || error_; });
  if (error_) std::rethrow_exception(error_);
}

void HessianWriter::write(std::int64_t block, const calib::SiteHessian& site, const std::string& calibration) {
  std::unique_lock lock(mutex_);
  if (file_ && std::ssize(file_->bytes) > calib::kFileBesideBytes) settle(lock);
  lock.unlock();
  File file{start_.paths().hessian(block, site.site), {}};
  file.bytes = hessian_file(file.path, block, site, calibration);
  lock.lock();
  settle(lock);
  file_ = std::move(file);
  changed_.notify_all();
}

void HessianWriter::finish() {
  std::unique_lock lock(mutex_);
  settle(lock);
}

}  // namespace voronoi::run
