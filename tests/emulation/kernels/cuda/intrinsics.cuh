// The emulator's twin of kernels/cuda/intrinsics.cuh: same functions, same contracts.
#pragma once

#include <cuda_runtime.h>

#include <algorithm>
#include <atomic>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <string>
#include <type_traits>

#include "core/types.h"
#include "tests/emulation/emulator.h"

namespace voronoi::kernels::gpu {

inline constexpr int kWarpSize = 32;
inline constexpr unsigned kFullWarp = 0xFFFFFFFFU;

inline void sync_threads() { emulation::block_barrier(); }
inline void sync_warp() { emulation::warp_exchange(emulation::WarpOperation::sync, nullptr, 0); }

template <class T>
T shuffle_from(T value, int own, int source) {
  static_assert(std::is_trivially_copyable_v<T> && (sizeof(T) == 4 || sizeof(T) == 8));
  const emulation::WarpValues values =
      emulation::warp_exchange(emulation::WarpOperation::shuffle, &value, sizeof value);
  if (source < 0 || source >= kWarpSize) source = own;
  if (values.lane[source] == nullptr) emulation::fail("a shuffle reads from absent lane " + std::to_string(source));
  std::memcpy(&value, values.lane[source], sizeof value);
  return value;
}
template <class T>
T shuffle(T value, int source_lane) {
  return shuffle_from(value, emulation::current_lane(), source_lane & (kWarpSize - 1));
}
template <class T>
T shuffle_xor(T value, int lane_mask) {
  const int lane = emulation::current_lane();
  return shuffle_from(value, lane, lane ^ lane_mask);
}
template <class T>
T shuffle_down(T value, int distance) {
  const int lane = emulation::current_lane();
  return shuffle_from(value, lane, lane + distance);
}
template <class T>
T shuffle_up(T value, int distance) {
  const int lane = emulation::current_lane();
  return shuffle_from(value, lane, lane - distance);
}
inline unsigned ballot(bool predicate) {
  const emulation::WarpValues values = emulation::warp_exchange(emulation::WarpOperation::ballot, &predicate, 1);
  unsigned bits = 0;
  for (int lane = 0; lane < kWarpSize; ++lane)
    if (values.lane[lane] != nullptr && *values.lane[lane] != std::byte{0}) bits |= 1U << lane;
  return bits;
}

template <class T>
T* dynamic_shared() {
  return static_cast<T*>(emulation::dynamic_shared_memory());
}

inline int atomic_add(int* address, int value) {
  const int old = *address;
  *address = static_cast<int>(static_cast<unsigned>(old) + static_cast<unsigned>(value));
  return old;
}
inline unsigned atomic_add(unsigned* address, unsigned value) { return std::exchange(*address, *address + value); }
inline unsigned long long atomic_add(unsigned long long* address, unsigned long long value) {
  return std::exchange(*address, *address + value);
}
inline int atomic_max(int* address, int value) { return std::exchange(*address, std::max(*address, value)); }
inline int atomic_min(int* address, int value) { return std::exchange(*address, std::min(*address, value)); }
inline unsigned atomic_or(unsigned* address, unsigned value) { return std::exchange(*address, *address | value); }
inline unsigned long long atomic_min(unsigned long long* address, unsigned long long value) {
  return std::exchange(*address, std::min(*address, value));
}
inline unsigned long long atomic_max(unsigned long long* address, unsigned long long value) {
  return std::exchange(*address, std::max(*address, value));
}

inline void cp_async_16(void* shared, const void* global, bool valid = true) {
  emulation::async_copy(shared, global, 16, valid);
}
inline void cp_async_4(void* shared, const void* global, bool valid = true) {
  emulation::async_copy(shared, global, 4, valid);
}
inline void cp_async_commit() { emulation::async_commit(); }
template <int N>
void cp_async_wait() {
  emulation::async_wait(N);
}

struct MmaOperands {
  std::uint32_t a[4], b[2];
};

/// fp32 nearest to zero of the two around a sum.
inline float round_towards_zero(double sum) {
  float rounded = static_cast<float>(sum);
  if (std::isfinite(rounded) && std::abs(static_cast<double>(rounded)) > std::abs(sum))
    rounded = std::nextafterf(rounded, 0.0F);
  return rounded;
}

/// kDepth along k; element(word, part): value `part` of the kPacked that an operand's word holds along k.
template <int kDepth, int kPacked, class Element>
void emulated_mma(float (&d)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2], const Element& element) {
  MmaOperands mine;
  std::copy_n(a, 4, mine.a);
  std::copy_n(b, 2, mine.b);
  const emulation::WarpValues values = emulation::warp_exchange(emulation::WarpOperation::mma, &mine, sizeof mine);
  MmaOperands all[kWarpSize];
  for (int lane = 0; lane < kWarpSize; ++lane) {
    if (values.lane[lane] == nullptr) emulation::fail("a matrix operation lacks lane " + std::to_string(lane));
    std::memcpy(&all[lane], values.lane[lane], sizeof(MmaOperands));
  }
  const int lane = emulation::current_lane();
  constexpr int kHalf = kDepth / 2;
  for (int i = 0; i < 4; ++i) {
    const int row = lane / 4 + (i / 2) * 8, column = 2 * (lane % 4) + i % 2;
    double sum = static_cast<double>(d[i]);
    for (int k = 0; k < kDepth; ++k) {
      const int half = k / kHalf, t = (k % kHalf) / kPacked, part = k % kPacked;
      const std::uint32_t word_a = all[(row % 8) * 4 + t].a[row / 8 + 2 * half];
      const std::uint32_t word_b = all[column * 4 + t].b[half];
      sum += static_cast<double>(element(word_a, part)) * static_cast<double>(element(word_b, part));
    }
    d[i] = round_towards_zero(sum);
  }
}
inline void mma_m16n8k8_tf32(float (&d)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2]) {
  emulated_mma<8, 1>(d, a, b, [](std::uint32_t word, int) { return std::bit_cast<float>(word & 0xFFFFE000U); });
}
inline void mma_m16n8k8_tf32(float (&d)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2],
                             const float (&c)[4]) {
  std::copy_n(c, 4, d);
  mma_m16n8k8_tf32(d, a, b);
}
inline void mma_m16n8k16_bf16(float (&d)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2]) {
  emulated_mma<16, 2>(d, a, b, [](std::uint32_t word, int part) {
    return core::bfloat_to_float(static_cast<std::uint16_t>(word >> (16 * part)));
  });
}
inline void mma_m16n8k16_f16(float (&d)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2]) {
  emulated_mma<16, 2>(d, a, b, [](std::uint32_t word, int part) {
    return core::half_to_float(static_cast<std::uint16_t>(word >> (16 * part)));
  });
}
template <bool kTrans>
void ldmatrix_x4(std::uint32_t (&r)[4], const void* shared_row) {
  if (reinterpret_cast<std::uintptr_t>(shared_row) % 16 != 0) emulation::fail("ldmatrix from an unaligned row");
  std::uint16_t row[8];
  std::memcpy(row, shared_row, sizeof row);
  const emulation::WarpValues values = emulation::warp_exchange(emulation::WarpOperation::ldmatrix, row, sizeof row);
  const int lane = emulation::current_lane();
  const auto at = [&](int matrix, int i, int j) {
    const std::byte* source = values.lane[matrix * 8 + i];
    if (source == nullptr) emulation::fail("ldmatrix lacks a lane");
    std::uint16_t value;
    std::memcpy(&value, source + 2 * j, sizeof value);
    return value;
  };
  for (int matrix = 0; matrix < 4; ++matrix) {
    const int i = lane / 4, j = 2 * (lane % 4);
    const std::uint32_t low = kTrans ? at(matrix, j, i) : at(matrix, i, j);
    const std::uint32_t high = kTrans ? at(matrix, j + 1, i) : at(matrix, i, j + 1);
    r[matrix] = low | high << 16;
  }
}

inline std::uint32_t to_tf32(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  if (!std::isfinite(value)) return bits;
  return (bits + 0x1000U) & 0xFFFFE000U;
}

inline std::uint16_t float_to_f16(float value) { return core::float_to_half(value); }
inline float f16_to_float(std::uint16_t bits) { return core::half_to_float(bits); }
inline std::uint16_t float_to_bf16(float value) { return core::float_to_bfloat(value); }
inline float bf16_to_float(std::uint16_t bits) { return core::bfloat_to_float(bits); }
inline std::uint32_t float_bits(float value) { return std::bit_cast<std::uint32_t>(value); }
inline float bits_float(std::uint32_t bits) { return std::bit_cast<float>(bits); }
inline int count_bits(unsigned value) { return std::popcount(value); }
inline int lowest_bit(unsigned value) { return std::countr_zero(value); }

inline float fast_exp(float x) { return std::exp(x); }
inline float reciprocal_sqrt(float x) { return 1.0F / std::sqrt(x); }
template <class T>
T load_constant(const T* address) {
  return *address;
}

}  // namespace voronoi::kernels::gpu
