// What the rest of the code calls a machine.
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "core/thread_pool.h"
#include "kernels/kernels.h"

namespace voronoi::backend {

enum class Device { cpu, cuda };

std::string_view device_name(Device device);

/// Device, its kernels and its threads; passed by reference, never global. Not copyable; use from one thread at a time.
class Context {
 public:
  /// n_threads >= 1. Throws NotCompiled when the device has no backend in this build or machine.
  Context(Device device, int n_threads);

  Device device() const { return device_; }
  int n_threads() const { return pool_.size(); }
  core::ThreadPool& pool() { return pool_; }
  const kernels::Exec& exec() const { return exec_; }
  const kernels::DeviceKernels& memory() const { return table_->device; }
  const kernels::LinalgKernels& linalg() const { return table_->linalg; }
  const kernels::NnKernels& nn() const { return table_->nn; }
  const kernels::VqKernels& vq() const { return table_->vq; }

 private:
  Device device_;
  core::ThreadPool pool_;
  const kernels::Kernels* table_;
  kernels::Exec exec_;
};

}  // namespace voronoi::backend
