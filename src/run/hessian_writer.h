// Hessians to disk behind the computation that goes on.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <filesystem>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "calib/collector.h"
#include "store/start.h"

namespace voronoi::run {

/// Publishes one site's file at a time on a thread of its own, in the order in which they were given: what is under way
/// is one file's bytes beside the site that is given next. A file appears whole by a rename as ever, so that a kill
/// leaves the same as without; only that the computation may be further.
class HessianWriter {
 public:
  /// Must outlive it.
  explicit HessianWriter(const store::Start& start);
  /// Waits for the file under way; its error is lost. finish() comes before.
  ~HessianWriter();
  HessianWriter(const HessianWriter&) = delete;
  HessianWriter& operator=(const HessianWriter&) = delete;

  /// As write_hessian. Makes the file here (behind one of more than calib::kFileBesideBytes, once that is published),
  /// waits until the one before is published, and leaves this one to the thread.
  /// Throws what publishing the one before threw; then nothing more is published.
  void write(std::int64_t block, const calib::SiteHessian& site, const std::string& calibration);
  /// All that was given is on disk, or the error that kept it from there is thrown.
  void finish();

 private:
  struct File {
    std::filesystem::path path;
    std::vector<std::byte> bytes;
  };
  void publish();
  /// Until nothing is under way. Throws the error of what was.
  void settle(std::unique_lock<std::mutex>& lock);

  const store::Start& start_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::optional<File> file_;  ///< under way
  std::exception_ptr error_;
  bool stop_ = false;
  std::thread thread_;
};

}  // namespace voronoi::run
