// Owning array in device memory.
#pragma once

#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "backend/device.h"
#include "core/error.h"
#include "core/types.h"

namespace voronoi::backend {

/// n elements of T in the memory of a context's device; move-only; content undefined until written. The context must
/// outlive it.
template <class T>
class Array {
 public:
  Array() = default;
  /// Throws DeviceError when memory is short, InternalError on a negative or overflowing size.
  Array(Context& context, std::int64_t n) : context_(&context), size_(n) {
    if (n != 0) data_ = static_cast<T*>(context.memory().allocate(context.exec(), size_bytes()));
  }
  /// A copy of host values.
  Array(Context& context, std::span<const T> values) : Array(context, static_cast<std::int64_t>(values.size())) {
    assign(values);
  }
  ~Array() { reset(); }
  Array(Array&& other) noexcept
      : context_(other.context_), data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}
  Array& operator=(Array&& other) noexcept {
    if (this != &other) {
      reset();
      context_ = other.context_;
      data_ = std::exchange(other.data_, nullptr);
      size_ = std::exchange(other.size_, 0);
    }
    return *this;
  }

  T* data() { return data_; }
  const T* data() const { return data_; }
  std::int64_t size() const { return size_; }
  bool empty() const { return size_ == 0; }

  /// values.size() == size().
  void assign(std::span<const T> values) {
    VORONOI_REQUIRE(static_cast<std::int64_t>(values.size()) == size_, "host values of another number");
    if (size_ > 0) context_->memory().copy_from_host(context_->exec(), values.data(), size_bytes(), data_);
  }
  std::vector<T> to_host() const {
    std::vector<T> values(static_cast<std::size_t>(size_));
    if (size_ > 0) context_->memory().copy_to_host(context_->exec(), data_, size_bytes(), values.data());
    return values;
  }
  void zero() {
    if (size_ > 0) context_->memory().zero(context_->exec(), size_bytes(), data_);
  }
  /// Another array of the same content on the same device.
  Array clone() const {
    Array copy;
    if (size_ == 0) return copy;
    copy = Array(*context_, size_);
    context_->memory().copy_on_device(context_->exec(), data_, size_bytes(), copy.data_);
    return copy;
  }

  /// Host access: only valid for arrays of a CPU context.
  std::span<T> span() { return {data_, static_cast<std::size_t>(size_)}; }
  std::span<const T> span() const { return {data_, static_cast<std::size_t>(size_)}; }

 private:
  std::int64_t size_bytes() const {
    const auto bytes = core::checked_multiply(size_, static_cast<std::int64_t>(sizeof(T)));
    VORONOI_REQUIRE(size_ >= 0 && bytes.has_value(), "array size overflows");
    return *bytes;
  }
  void reset() {
    if (data_ != nullptr) context_->memory().release(context_->exec(), data_);
    data_ = nullptr;
  }
  Context* context_ = nullptr;
  T* data_ = nullptr;
  std::int64_t size_ = 0;
};

/// Host values as kernels can read them: in place where the device is the host, else a copy. The values must outlive
/// it.
template <class T>
class DeviceView {
 public:
  DeviceView(Context& context, std::span<const T> values) : data_(values.data()) {
    if (context.on_host()) return;
    copy_ = Array<T>(context, values);
    data_ = copy_.data();
  }
  const T* data() const { return data_; }

 private:
  const T* data_;
  Array<T> copy_;
};

/// Device values as the host can read them, likewise.
template <class T>
class HostView {
 public:
  HostView(Context& context, const T* device, std::int64_t n) {
    if (context.on_host() || n == 0) {
      values_ = {device, static_cast<std::size_t>(n)};
      return;
    }
    copy_.resize(static_cast<std::size_t>(n));
    context.memory().copy_to_host(context.exec(), device, n * std::int64_t{sizeof(T)}, copy_.data());
    values_ = copy_;
  }
  HostView(const HostView&) = delete;
  HostView& operator=(const HostView&) = delete;
  std::span<const T> values() const { return values_; }

 private:
  std::vector<T> copy_;
  std::span<const T> values_;
};

/// The rows `ids` of x [*, n], in their order: [ids.size(), n], on the device.
inline Array<float> gather_rows(Context& context, const float* x, std::int64_t n, std::span<const std::int32_t> ids) {
  const auto n_ids = static_cast<std::int64_t>(ids.size());
  const DeviceView<std::int32_t> device_ids(context, ids);
  Array<float> rows(context, n_ids * n);
  if (n_ids > 0) context.linalg().gather_rows_f32(context.exec(), device_ids.data(), n_ids, n, x, rows.data());
  return rows;
}

}  // namespace voronoi::backend
