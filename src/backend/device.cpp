#include "backend/device.h"

#include "kernels/driver.h"

namespace voronoi::backend {

std::string_view device_name(Device device) { return device == Device::cpu ? "cpu" : "cuda"; }

namespace {

const kernels::Kernels& table_of(Device device) { return device == Device::cpu ? kernels::cpu() : kernels::cuda(); }

}  // namespace

int count_devices(Device device) {
  if (device == Device::cuda && !kernels::cuda_possible()) return 0;
  return table_of(device).device.count();
}

Context::Context(Device device, int n_threads, int ordinal)
    : device_(device), pool_(n_threads), table_(&table_of(device)), exec_{&pool_, table_->device.open(ordinal)} {}

Context::~Context() { table_->device.close(exec_.native); }

}  // namespace voronoi::backend
