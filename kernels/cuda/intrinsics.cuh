// The hardware operations that device code may use, one wrapper each; device_ops.cuh builds on them. The emulator of
// the tests (tests/emulation) puts a header of the same name and the same functions in this one's place, so nothing
// else in kernels/cuda may use an intrinsic, inline PTX or `extern __shared__`.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>

namespace voronoi::kernels::gpu {

inline constexpr int kWarpSize = 32;
inline constexpr unsigned kFullWarp = 0xFFFFFFFFU;

/// Every thread of the block that has not returned.
__device__ __forceinline__ void sync_threads() { __syncthreads(); }
/// Every thread of the warp that has not returned; orders their memory accesses. All warp operations below are
/// collective over the whole warp likewise: a lane may be absent (returned, or past the block's end), but reading from
/// such a lane is an error.
__device__ __forceinline__ void sync_warp() { __syncwarp(); }

/// T is a plain type of 4 or 8 bytes.
template <class T>
__device__ __forceinline__ T shuffle(T value, int source_lane) {
  return __shfl_sync(kFullWarp, value, source_lane);
}
template <class T>
__device__ __forceinline__ T shuffle_xor(T value, int lane_mask) {
  return __shfl_xor_sync(kFullWarp, value, lane_mask);
}
/// Lanes whose source would lie past the warp keep their own value.
template <class T>
__device__ __forceinline__ T shuffle_down(T value, int distance) {
  return __shfl_down_sync(kFullWarp, value, static_cast<unsigned>(distance));
}
template <class T>
__device__ __forceinline__ T shuffle_up(T value, int distance) {
  return __shfl_up_sync(kFullWarp, value, static_cast<unsigned>(distance));
}
/// Bit l: lane l's predicate (0 for an absent lane).
__device__ __forceinline__ unsigned ballot(bool predicate) { return __ballot_sync(kFullWarp, predicate); }

/// The block's dynamic shared memory, 128-byte aligned.
template <class T>
__device__ __forceinline__ T* dynamic_shared() {
  extern __shared__ __align__(128) unsigned char voronoi_dynamic_shared[];
  return reinterpret_cast<T*>(voronoi_dynamic_shared);
}

// Atomics on integers only: a float's sum would depend on the order. Each returns the old value.
__device__ __forceinline__ int atomic_add(int* address, int value) { return atomicAdd(address, value); }
__device__ __forceinline__ unsigned atomic_add(unsigned* address, unsigned value) { return atomicAdd(address, value); }
__device__ __forceinline__ unsigned long long atomic_add(unsigned long long* address, unsigned long long value) {
  return atomicAdd(address, value);
}
__device__ __forceinline__ int atomic_max(int* address, int value) { return atomicMax(address, value); }
__device__ __forceinline__ int atomic_min(int* address, int value) { return atomicMin(address, value); }
__device__ __forceinline__ unsigned atomic_or(unsigned* address, unsigned value) { return atomicOr(address, value); }
__device__ __forceinline__ unsigned long long atomic_min(unsigned long long* address, unsigned long long value) {
  return atomicMin(address, value);
}
__device__ __forceinline__ unsigned long long atomic_max(unsigned long long* address, unsigned long long value) {
  return atomicMax(address, value);
}

/// Copies 16 bytes from global to shared memory (both 16-byte aligned) in the background; zeros, and no read, when not
/// valid. Seen by this thread after commit and wait, by others after a barrier behind that.
__device__ __forceinline__ void cp_async_16(void* shared, const void* global, bool valid = true) {
  const auto address = static_cast<unsigned>(__cvta_generic_to_shared(shared));
  const int source_bytes = valid ? 16 : 0;
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;\n" ::"r"(address), "l"(global), "r"(source_bytes)
               : "memory");
}
/// The same for 4 bytes, 4-byte aligned.
__device__ __forceinline__ void cp_async_4(void* shared, const void* global, bool valid = true) {
  const auto address = static_cast<unsigned>(__cvta_generic_to_shared(shared));
  const int source_bytes = valid ? 4 : 0;
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;\n" ::"r"(address), "l"(global), "r"(source_bytes)
               : "memory");
}
/// Ends a group of this thread's copies (which may be empty).
__device__ __forceinline__ void cp_async_commit() { asm volatile("cp.async.commit_group;\n" ::: "memory"); }
/// Waits until at most the N youngest groups of this thread are under way.
template <int N>
__device__ __forceinline__ void cp_async_wait() {
  asm volatile("cp.async.wait_group %0;\n" ::"n"(N) : "memory");
}

// Tensor cores: D += A B of one warp, A [16, k] row-major, B [k, 8], D [16, 8] fp32. With g = lane / 4, t = lane % 4:
//   d[0] (g, 2t)      d[1] (g, 2t + 1)      d[2] (g + 8, 2t)      d[3] (g + 8, 2t + 1)
// The products are exact; the sum is rounded towards zero in fp32, about once every 4 to 16 products.

/// k = 8, tf32: fp32 bits of which the lower 13 are ignored (round with to_tf32 before).
///   a[0] (g, t)   a[1] (g + 8, t)   a[2] (g, t + 4)   a[3] (g + 8, t + 4);   b[0] (t, g)   b[1] (t + 4, g)
__device__ __forceinline__ void mma_m16n8k8_tf32(float (&d)[4], const std::uint32_t (&a)[4],
                                                 const std::uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};\n"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
/// D = A B + C on the same fragments: one C serves many products without copies.
__device__ __forceinline__ void mma_m16n8k8_tf32(float (&d)[4], const std::uint32_t (&a)[4],
                                                 const std::uint32_t (&b)[2], const float (&c)[4]) {
  asm volatile(
      "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%10,%11,%12,%13};\n"
      : "=f"(d[0]), "=f"(d[1]), "=f"(d[2]), "=f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]), "f"(c[0]), "f"(c[1]), "f"(c[2]), "f"(c[3]));
}
/// k = 16; each word holds two neighbours along k, the even one in the lower half.
///   a[0] (g, 2t..)   a[1] (g + 8, 2t..)   a[2] (g, 2t + 8..)   a[3] (g + 8, 2t + 8..);   b[0] (2t.., g)   b[1] (2t
///   + 8.., g)
__device__ __forceinline__ void mma_m16n8k16_bf16(float (&d)[4], const std::uint32_t (&a)[4],
                                                  const std::uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};\n"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
__device__ __forceinline__ void mma_m16n8k16_f16(float (&d)[4], const std::uint32_t (&a)[4],
                                                 const std::uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};\n"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
/// Four 8 x 8 matrices of 16-bit values from shared memory: lane l gives the address (16-byte aligned) of row l % 8 of
/// matrix l / 8; r[i] receives of matrix i the values (lane / 4, 2 (lane % 4)) and the next. trans: of its transpose.
template <bool kTrans>
__device__ __forceinline__ void ldmatrix_x4(std::uint32_t (&r)[4], const void* shared_row) {
  const auto address = static_cast<unsigned>(__cvta_generic_to_shared(shared_row));
  if constexpr (kTrans)
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];\n"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(address)
                 : "memory");
  else
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];\n"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(address)
                 : "memory");
}

/// Nearest tf32 (10 bits of fraction), ties away from zero.
__device__ __forceinline__ std::uint32_t to_tf32(float value) {
  std::uint32_t bits;
  asm("cvt.rna.tf32.f32 %0, %1;\n" : "=r"(bits) : "f"(value));
  return bits;
}

// 16-bit floats as raw bits; to nearest even, NaN stays NaN, overflow becomes infinity (f16).
__device__ __forceinline__ std::uint16_t float_to_f16(float value) { return __half_as_ushort(__float2half_rn(value)); }
__device__ __forceinline__ float f16_to_float(std::uint16_t bits) { return __half2float(__ushort_as_half(bits)); }
__device__ __forceinline__ std::uint16_t float_to_bf16(float value) {
  return __bfloat16_as_ushort(__float2bfloat16_rn(value));
}
__device__ __forceinline__ float bf16_to_float(std::uint16_t bits) {
  return __uint_as_float(static_cast<unsigned>(bits) << 16);
}

__device__ __forceinline__ std::uint32_t float_bits(float value) { return __float_as_uint(value); }
__device__ __forceinline__ float bits_float(std::uint32_t bits) { return __uint_as_float(bits); }
__device__ __forceinline__ int count_bits(unsigned value) { return __popc(value); }
/// Index of the lowest set bit; value != 0.
__device__ __forceinline__ int lowest_bit(unsigned value) { return __ffs(static_cast<int>(value)) - 1; }

/// exp(x) to 2 ulp + 2^-21 |x| relative (ex2.approx).
__device__ __forceinline__ float fast_exp(float x) { return __expf(x); }
/// 1 / sqrt(x) to 2 ulp.
__device__ __forceinline__ float reciprocal_sqrt(float x) { return rsqrtf(x); }
/// A read through the read-only cache; the value must not change while the kernel runs.
template <class T>
__device__ __forceinline__ T load_constant(const T* address) {
  return __ldg(address);
}

}  // namespace voronoi::kernels::gpu
