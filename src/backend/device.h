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
/// Devices of a kind that can be opened here; 0 without driver. Throws NotCompiled without a backend for it.
int count_devices(Device device);

/// Device, its kernels and its threads; passed by reference, never global. Not copyable; use from one thread at a time.
/// Arrays of a context must not outlive it.
class Context {
 public:
  /// n_threads >= 1; ordinal: which device of the kind. Throws NotCompiled when the kind has no backend in this build
  /// or machine, DeviceError when the device cannot be opened.
  Context(Device device, int n_threads, int ordinal = 0);
  ~Context();
  Context(const Context&) = delete;
  Context& operator=(const Context&) = delete;

  Device device() const { return device_; }
  /// Whether array addresses may be read and written by the host.
  bool on_host() const { return device_ == Device::cpu; }
  int n_threads() const { return pool_.size(); }
  core::ThreadPool& pool() { return pool_; }
  const kernels::Exec& exec() const { return exec_; }
  const kernels::DeviceKernels& memory() const { return table_->device; }
  const kernels::LinalgKernels& linalg() const { return table_->linalg; }
  const kernels::NnKernels& nn() const { return table_->nn; }
  const kernels::NnGradientKernels& nn_gradient() const { return table_->nn_gradient; }
  const kernels::VqKernels& vq() const { return table_->vq; }
  const kernels::VptqKernels& vptq() const { return table_->vptq; }
  const kernels::GptvqKernels& gptvq() const { return table_->gptvq; }
  const kernels::UniformKernels& uniform() const { return table_->uniform; }
  const kernels::RotationKernels& rotation() const { return table_->rotation; }
  const kernels::E8pKernels& e8p() const { return table_->e8p; }
  const kernels::TrellisKernels& trellis() const { return table_->trellis; }
  const kernels::AqlmKernels& aqlm() const { return table_->aqlm; }
  const kernels::DeltaRuleKernels& delta_rule() const { return table_->delta_rule; }
  const kernels::SignedLevelsKernels& signed_levels() const { return table_->signed_levels; }
  const kernels::VqSliceKernels& slice() const { return table_->slice; }
  const kernels::HessianKernels& hessian() const { return table_->hessian; }
  const kernels::CollectiveKernels& collective() const { return table_->collective; }

 private:
  Device device_;
  core::ThreadPool pool_;
  const kernels::Kernels* table_;
  kernels::Exec exec_;
};

}  // namespace voronoi::backend
