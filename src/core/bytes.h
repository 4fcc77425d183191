// Arrays of plain values to raw bytes and back, for what ranks send one another.
#pragma once

#include <cstddef>
#include <cstring>
#include <span>
#include <type_traits>
#include <vector>

#include "core/error.h"

namespace voronoi::core {

/// values, at the end of bytes.
template <class T>
void append_bytes(std::span<const T> values, std::vector<std::byte>& bytes) {
  const auto raw = std::as_bytes(values);
  bytes.insert(bytes.end(), raw.begin(), raw.end());
}

/// The first `count` values of bytes, which they leave, at the end of values. InternalError when there are fewer.
template <class T>
void take_values(std::span<const std::byte>& bytes, std::size_t count, std::vector<T>& values) {
  static_assert(std::is_trivially_copyable_v<T>);
  VORONOI_REQUIRE(count <= bytes.size() / sizeof(T), "fewer values than were announced");
  const std::size_t old = values.size();
  values.resize(old + count);
  if (count > 0) std::memcpy(values.data() + old, bytes.data(), count * sizeof(T));
  bytes = bytes.subspan(count * sizeof(T));
}

/// All values of bytes, at the end of values. InternalError when bytes end within one.
template <class T>
void append_values(std::span<const std::byte> bytes, std::vector<T>& values) {
  VORONOI_REQUIRE(bytes.size() % sizeof(T) == 0, "bytes end within a value");
  take_values(bytes, bytes.size() / sizeof(T), values);
}

template <class T>
std::vector<T> values_of(std::span<const std::byte> bytes) {
  std::vector<T> values;
  append_values(bytes, values);
  return values;
}

}  // namespace voronoi::core
