#include "backend/device.h"

namespace voronoi::backend {

std::string_view device_name(Device device) { return device == Device::cpu ? "cpu" : "cuda"; }

Context::Context(Device device, int n_threads, int ordinal)
    : device_(device),
      pool_(n_threads),
      table_(device == Device::cpu ? &kernels::cpu() : &kernels::cuda()),
      exec_{&pool_, table_->device.open(ordinal)} {}

Context::~Context() { table_->device.close(exec_.native); }

}  // namespace voronoi::backend
