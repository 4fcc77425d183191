// HDF5's C API inside the store: owned identifiers, errors as exceptions, one call at a time.
#pragma once

#include <hdf5.h>

#include <mutex>
#include <stdexcept>
#include <string>
#include <utility>

namespace voronoi::store::hdf5 {

/// "call: innermost message of HDF5's error stack"; the stack is cleared.
class Failure : public std::runtime_error {
 public:
  explicit Failure(const char* call);
};

/// A negative result is an error of `call`.
template <class Result>
Result check(Result result, const char* call) {
  if (result < 0) throw Failure(call);
  return result;
}

/// Owns one identifier.
class Handle {
 public:
  using Close = herr_t (*)(hid_t);
  Handle(hid_t id, Close close, const char* call) : id_(check(id, call)), close_(close) {}
  ~Handle() {
    if (id_ >= 0) close_(id_);
  }
  Handle(Handle&& other) noexcept : id_(std::exchange(other.id_, hid_t{-1})), close_(other.close_) {}
  Handle& operator=(Handle&&) = delete;
  hid_t get() const { return id_; }

 private:
  hid_t id_;
  Close close_;
};

/// Held while HDF5 is used: not every build of the library is thread-safe. Turns the printing of errors off.
class Session {
 public:
  Session();

 private:
  std::lock_guard<std::mutex> lock_;
};

}  // namespace voronoi::store::hdf5
