// Tests that compare a CUDA twin with its CPU twin. They run twice: on a GPU, and on the emulated one (the environment
// variable VORONOI_CUDA_MODULE names the module).
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <cstdlib>
#include <memory>
#include <random>
#include <string_view>
#include <vector>

#include "backend/device.h"
#include "backend/tensor.h"
#include "core/error.h"
#include "support/skip.h"

namespace voronoi::test {

/// Values of a normal distribution.
inline std::vector<float> normal_values(std::int64_t n, std::uint32_t seed) {
  std::mt19937 engine(seed);
  std::normal_distribution<float> normal;
  std::vector<float> values(static_cast<std::size_t>(n));
  for (float& value : values) value = normal(engine);
  return values;
}

/// Skips, with the reason, where no GPU is.
class GpuTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (kernels::cuda().device.count() == 0) VORONOI_SKIP_MACHINE("no GPU here");
    gpu_ = std::make_unique<backend::Context>(backend::Device::cuda, 1);
  }

  backend::Context& gpu() { return *gpu_; }
  backend::Context& cpu() { return cpu_; }
  /// A thread switch of the emulator takes about 30 ns: sizes are to follow.
  static bool is_emulated() {
    const char* module = std::getenv("VORONOI_CUDA_MODULE");
    return module != nullptr && std::string_view(module).find("emulated") != std::string_view::npos;
  }

  template <class T>
  backend::Array<T> on_gpu(const std::vector<T>& values) {
    return backend::Array<T>(*gpu_, std::span<const T>(values));
  }

 private:
  backend::Context cpu_{backend::Device::cpu, 2};
  std::unique_ptr<backend::Context> gpu_;
};

}  // namespace voronoi::test
