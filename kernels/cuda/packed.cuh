// Packed linears in device code: codes out of the bit stream, centroids out of 16-bit codebooks, decoded weights.
#pragma once

#include <cstdint>

#include "kernels/cuda/device_ops.cuh"

namespace voronoi::kernels::gpu {

/// Value j of a stream of `bits` bits each, LSB first; bits 1..32.
__device__ __forceinline__ std::uint32_t packed_value(const std::uint32_t* words, std::int64_t j, int bits) {
  const std::int64_t first = j * bits;
  const int shift = static_cast<int>(first & 31);
  const std::uint32_t* word = words + (first >> 5);
  std::uint64_t window = load_constant(word);
  if (shift + bits > 32) window |= static_cast<std::uint64_t>(load_constant(word + 1)) << 32;
  return static_cast<std::uint32_t>(window >> shift) & (0xFFFFFFFFU >> (32 - bits));
}

template <bool kBf16>
__device__ __forceinline__ float widen16(std::uint32_t bits) {
  return kBf16 ? bf16_to_float(static_cast<std::uint16_t>(bits)) : f16_to_float(static_cast<std::uint16_t>(bits));
}

/// A decoded weight in fp32, or rounded to the type of the packed values.
template <bool kBf16>
__device__ __forceinline__ void store(float value, float* target) {
  *target = value;
}
template <bool kBf16>
__device__ __forceinline__ void store(float value, std::uint16_t* target) {
  *target = kBf16 ? float_to_bf16(value) : float_to_f16(value);
}

/// 16-bit values between two centroids of a staged codebook: such that one starts at a multiple of its widest load.
template <int kV>
__host__ __device__ constexpr int staged_stride() {
  return kV == 6 ? 8 : kV;
}

/// The kV values of a centroid at `from` (aligned as a codebook row is: 4 bytes for 6 values, 8 for 4 and 12, 16 for 8
/// and 16; staged rows of 6 are padded to 16 bytes), widened.
template <int kV, bool kBf16, bool kStaged>
__device__ __forceinline__ void load_centroid(const std::uint16_t* from, float (&out)[kV]) {
  constexpr int kWords = kV / 2;
  std::uint32_t words[kWords + 1];  // one more: rows of 6 are read as 8
  if constexpr (kV % 8 == 0 || (kV == 6 && kStaged)) {
#pragma unroll
    for (int i = 0; i < (kWords + 3) / 4; ++i) {
      const uint4 part = reinterpret_cast<const uint4*>(from)[i];
      words[4 * i] = part.x;
      words[4 * i + 1] = part.y;
      words[4 * i + 2] = part.z;
      words[4 * i + 3] = part.w;
    }
  } else if constexpr (kV % 4 == 0) {
#pragma unroll
    for (int i = 0; i < kWords / 2; ++i) {
      const uint2 part = reinterpret_cast<const uint2*>(from)[i];
      words[2 * i] = part.x;
      words[2 * i + 1] = part.y;
    }
  } else {
#pragma unroll
    for (int i = 0; i < kWords; ++i) words[i] = reinterpret_cast<const std::uint32_t*>(from)[i];
  }
#pragma unroll
  for (int i = 0; i < kWords; ++i) {
    out[2 * i] = widen16<kBf16>(words[i] & 0xFFFFU);
    out[2 * i + 1] = widen16<kBf16>(words[i] >> 16);
  }
}

}  // namespace voronoi::kernels::gpu
