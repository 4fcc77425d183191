// What linears between two rotations share in device code: parts of sums, and what stands around decoding and product.
#pragma once

#include <algorithm>
#include <cstdint>

#include "kernels/cuda/device_ops.cuh"
#include "kernels/cuda/families.h"
#include "kernels/cuda/native.h"
#include "kernels/cuda/rows.cuh"
#include "kernels/rotation.h"

namespace voronoi::kernels::gpu {

/// sums [n] = scale times the parts, one after another.
template <class Value>
__global__ void add_codes_kernel(std::int64_t n, std::int64_t n_parts, const Value* partials, Value scale,
                                 Value* sums) {
  for (std::int64_t i = global_thread(); i < n; i += global_threads()) {
    Value sum = 0;
    for (std::int64_t part = 0; part < n_parts; ++part) sum += partials[part * n + i];
    sums[i] = scale * sum;
  }
}

/// Per value of a matrix [rows, n_columns], as for_rows takes it.
struct Narrow {
  const float* values;
  std::uint16_t* narrow;
  std::int64_t n_columns;
  bool bf16;
  __device__ void operator()(std::int64_t row, std::int64_t column) const {
    const float value = values[row * n_columns + column];
    narrow[row * n_columns + column] = bf16 ? float_to_bf16(value) : float_to_f16(value);
  }
};
struct Take {
  const float* values;
  const float* factors;  ///< of the columns; null: ones
  float* out;
  std::int64_t n_columns;
  bool accumulate;
  __device__ void operator()(std::int64_t row, std::int64_t column) const {
    const std::int64_t at = row * n_columns + column;
    const float value = factors != nullptr ? values[at] * factors[column] : values[at];
    out[at] = accumulate ? out[at] + value : value;
  }
};
struct TimesFactors {
  SideFactors factors;
  float* values;
  std::int64_t n_columns;
  __device__ void operator()(std::int64_t row, std::int64_t column) const {
    float& value = values[row * n_columns + column];
    if (factors.out != nullptr) value *= factors.out[row];
    if (factors.in != nullptr) value *= factors.in[column];
  }
};

/// Q [out, in] becomes W = out^T Q in, times the factors of its sides.
template <class Packed>
void turn_back(const Exec& exec, const Packed& p, float* weight) {
  const RotationKernels rotation = cuda_rotation_kernels();
  if (p.in.n > 0) rotation.turn_rows(exec, p.in, true, p.out_features, weight);
  if (p.out.n > 0) rotation.turn_columns(exec, p.out, true, p.in_features, weight);
  if (p.factors.in != nullptr || p.factors.out != nullptr)
    for_rows(exec, p.out_features, p.in_features, TimesFactors{p.factors, weight, p.in_features});
}

/// decode_16 by a decode_f32.
template <class Packed>
void decode_narrow(const Exec& exec, const Packed& p, void (*decode_f32)(const Exec&, const Packed&, float*),
                   std::uint16_t* weight) {
  const Scratch<float> wide(native(exec), p.out_features * p.in_features);
  decode_f32(exec, p, wide.data());
  for_rows(exec, p.out_features, p.in_features,
           Narrow{wide.data(), weight, p.in_features, p.dtype == core::DType::bf16});
}

/// fused_matmul by multiply(gpu, p, n, x, sums): sums [n, out] = x [n, in] Q^T for up to tokens_a_pass tokens.
template <class Packed>
void multiply_turned(const Exec& exec, const Packed& p, std::int64_t n_tokens, const float* x, bool accumulate,
                     float* out, std::int64_t tokens_a_pass,
                     void (*multiply)(Native&, const Packed&, std::int64_t, const float*, float*)) {
  Native& gpu = native(exec);
  const RotationKernels rotation = cuda_rotation_kernels();
  const bool changes = p.in.n > 0 || p.factors.in != nullptr;
  const Scratch<float> turned(gpu, changes ? n_tokens * p.in_features : 0), sums(gpu, n_tokens * p.out_features);
  const float* tokens = x;
  if (changes) {
    for_rows(exec, n_tokens, p.in_features, Take{x, p.factors.in, turned.data(), p.in_features, false});
    if (p.in.n > 0) rotation.turn_rows(exec, p.in, false, n_tokens, turned.data());
    tokens = turned.data();
  }
  for (std::int64_t first = 0; first < n_tokens; first += tokens_a_pass)
    multiply(gpu, p, std::min(tokens_a_pass, n_tokens - first), tokens + first * p.in_features,
             sums.data() + first * p.out_features);
  if (p.out.n > 0) rotation.turn_rows(exec, p.out, true, n_tokens, sums.data());
  for_rows(exec, n_tokens, p.out_features, Take{sums.data(), p.factors.out, out, p.out_features, accumulate});
}

}  // namespace voronoi::kernels::gpu
