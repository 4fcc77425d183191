// What the kernels of the nn family share.
#pragma once

#include <algorithm>
#include <cstdint>

#include "core/types.h"
#include "kernels/cuda/device_ops.cuh"
#include "kernels/cuda/native.h"
#include "kernels/nn.h"

namespace voronoi::kernels::gpu {

// Every thread block of this family; more blocks than this walk on in a loop.
constexpr int kNnThreads = 256;
constexpr std::int64_t kNnBlocks = 1 << 20;

inline dim3 nn_grid(std::int64_t blocks) { return grid_of(std::min(blocks, kNnBlocks)); }

inline bool aligned_16(const void* address) { return reinterpret_cast<std::uintptr_t>(address) % 16 == 0; }

void attention(const Exec& exec, const AttentionShape& shape, const float* q, const float* k, const float* v,
               float* out);
void cached_attention(const Exec& exec, const AttentionShape& shape, std::int64_t n_past, const float* q,
                      const float* k, const float* v, float* out);
void nll(const Exec& exec, std::int64_t n_rows, std::int64_t vocab, const float* logits, std::int64_t ld,
         const std::int32_t* target, double* nll);
void route(const Exec& exec, std::int64_t n_rows, std::int64_t n_experts, std::int64_t top_k, bool renormalise,
           const float* logits, std::int32_t* expert, float* weight);
void rms_norm(const Exec& exec, std::int64_t n_rows, std::int64_t dim, const float* x, std::int64_t ldx,
              const float* weight, float eps, float* out, std::int64_t ld_out);

}  // namespace voronoi::kernels::gpu
