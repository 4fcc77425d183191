// Uninitialised, cache-line aligned work memory of a kernel call.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <memory>
#include <string>

#include "core/error.h"

namespace voronoi::kernels {

template <class T>
class Scratch {
 public:
  explicit Scratch(std::int64_t n) {
    const std::size_t bytes = (static_cast<std::size_t>(n) * sizeof(T) + 63U) & ~std::size_t{63};
    data_.reset(static_cast<T*>(std::aligned_alloc(64, bytes == 0 ? 64 : bytes)));
    if (!data_)
      throw core::DeviceError("out of memory: " + std::to_string(bytes) + " bytes of work space were asked for");
  }
  T* data() { return data_.get(); }
  const T* data() const { return data_.get(); }

 private:
  struct Free {
    void operator()(T* address) const { std::free(address); }
  };
  std::unique_ptr<T, Free> data_;
};

}  // namespace voronoi::kernels
