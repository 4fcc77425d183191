// Sums of floats at places that codes choose, as fixed-point integers: added by atomics they do not depend on the
// order. A pass before finds the largest term, which decides where the point stands.
#pragma once

#include <bit>
#include <cstdint>

#include "kernels/cuda/device_ops.cuh"

namespace voronoi::kernels::gpu {

using Fixed = unsigned long long;  // two's complement

/// Terms times factor() add up to less than 2^63.
struct FixedPoint {
  int bits;  ///< that a term may have
  // largest: bits of the largest magnitude of a term, at least those of any finite one.
  __device__ int shift(int largest) const { return bits - ((largest >> 23) - 126); }
  __device__ double factor(int largest) const { return ldexp(1.0, shift(largest)); }
  __device__ static bool finite(int largest) { return largest < 0x7F800000; }
  /// Of a sum; NaN where a term was not finite: no sum is to hide it.
  __device__ float value(Fixed sum, int largest) const {
    if (!finite(largest)) return NAN;
    return static_cast<float>(static_cast<double>(static_cast<long long>(sum)) * ldexp(1.0, -shift(largest)));
  }
};

inline FixedPoint fixed_point(std::int64_t most_terms) {
  return {62 - static_cast<int>(std::bit_width(static_cast<std::uint64_t>(most_terms)))};
}

/// Bits of the larger magnitude: they order like their bits, and NaN is the largest.
__device__ __forceinline__ std::uint32_t larger_magnitude(std::uint32_t most, float term) {
  const std::uint32_t magnitude = float_bits(term) & 0x7FFFFFFFU;
  return magnitude > most ? magnitude : most;
}

__device__ __forceinline__ void add_fixed(float term, double factor, Fixed* sum) {
  atomic_add(sum, static_cast<Fixed>(static_cast<long long>(rint(static_cast<double>(term) * factor))));
}

}  // namespace voronoi::kernels::gpu
