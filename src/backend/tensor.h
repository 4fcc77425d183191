// Owning array in device memory.
#pragma once

#include <cstdint>
#include <span>
#include <utility>

#include "backend/device.h"
#include "core/error.h"
#include "core/types.h"

namespace voronoi::backend {

/// n elements of T in the memory of a context's device; move-only; content undefined until written.
template <class T>
class Array {
 public:
  Array() = default;
  /// Throws DeviceError when memory is short, InternalError on a negative or overflowing size.
  Array(Context& context, std::int64_t n) : memory_(&context.memory()), size_(n) {
    const auto size_bytes = core::checked_multiply(n, static_cast<std::int64_t>(sizeof(T)));
    VORONOI_REQUIRE(size_bytes.has_value(), "array size overflows");
    if (n > 0) data_ = static_cast<T*>(memory_->allocate(*size_bytes));
  }
  ~Array() { reset(); }
  Array(Array&& other) noexcept
      : memory_(other.memory_), data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}
  Array& operator=(Array&& other) noexcept {
    if (this != &other) {
      reset();
      memory_ = other.memory_;
      data_ = std::exchange(other.data_, nullptr);
      size_ = std::exchange(other.size_, 0);
    }
    return *this;
  }

  T* data() { return data_; }
  const T* data() const { return data_; }
  std::int64_t size() const { return size_; }
  bool empty() const { return size_ == 0; }
  /// Host access: only valid for arrays of a CPU context.
  std::span<T> span() { return {data_, static_cast<std::size_t>(size_)}; }
  std::span<const T> span() const { return {data_, static_cast<std::size_t>(size_)}; }

 private:
  void reset() {
    if (data_ != nullptr) memory_->release(data_);
    data_ = nullptr;
  }
  const kernels::DeviceKernels* memory_ = nullptr;
  T* data_ = nullptr;
  std::int64_t size_ = 0;
};

}  // namespace voronoi::backend
