// Codebooks and codes of a slice as kernels see them.
#pragma once

#include <vector>

#include "kernels/cuda/device_ops.cuh"
#include "kernels/cuda/native.h"
#include "kernels/vq_slice.h"

namespace voronoi::kernels::gpu {

/// VqSlice, VqBooks and VqCodes by value.
struct Coded {
  std::int64_t in_features, rows, width, code_stride, v, k, kr, group_size, outlier_size, v0;
  VqBooks books;
  VqCodes codes;

  __device__ __forceinline__ std::int64_t vector_length(std::int64_t p) const { return p < outlier_size ? v0 : v; }
  /// main + residual of a row, rounded once.
  __device__ __forceinline__ float decode(std::int64_t p, std::int64_t row) const {
    const auto length = static_cast<unsigned>(vector_length(p));
    const unsigned i = static_cast<unsigned>(row) / length, d = static_cast<unsigned>(row) % length;
    const std::int64_t at = p * code_stride + i;
    if (p < outlier_size) return books.outlier[static_cast<std::int64_t>(codes.main[at]) * v0 + d];
    const std::int64_t group = (p - outlier_size) / group_size;
    const float value = books.main[(group * k + codes.main[at]) * v + d];
    return books.residual == nullptr ? value : value + books.residual[(group * kr + codes.residual[at]) * v + d];
  }
};

inline Coded coded(const VqSlice& s, const VqBooks& books, const VqCodes& codes) {
  VORONOI_REQUIRE(s.width < std::int64_t{1} << 31, "a slice of less than 2^31 rows");
  return {s.in_features, s.rows,       s.width,        s.code_stride, s.v,   s.k,
          s.kr,          s.group_size, s.outlier_size, s.v0,          books, codes};
}

/// part_begin in device memory.
class Parts {
 public:
  Parts(Native& native, const VqSlice& slice) : begin_(native, slice.n_parts + 1) {
    copy_in(native, slice.part_begin, (slice.n_parts + 1) * std::int64_t{sizeof(std::int64_t)}, begin_.data());
  }
  const std::int64_t* begin() const { return begin_.data(); }

 private:
  Scratch<std::int64_t> begin_;
};

}  // namespace voronoi::kernels::gpu
