// What the kernels of the gradients share between files.
#pragma once

#include "kernels/cuda/nn.cuh"
#include "kernels/nn_gradient.h"

namespace voronoi::kernels::gpu {

// See NnGradientKernels.
void rms_norm_gradient(const Exec& exec, std::int64_t n_rows, std::int64_t dim, const float* x, std::int64_t ldx,
                       const float* weight, float eps, const float* d_out, std::int64_t ld_out, bool accumulate,
                       float* dx, std::int64_t ld_dx, float* d_weight);
void column_sums(const Exec& exec, std::int64_t n_rows, std::int64_t dim, const float* x, std::int64_t ldx, float* sum);
void route_gradient(const Exec& exec, const RouteShape& shape, const float* logits, const std::int32_t* expert,
                    const float* weight, const float* d_weight, float* d_logits);
void layer_norm_gradient(const Exec& exec, std::int64_t n_rows, std::int64_t dim, const float* x, std::int64_t ldx,
                         const float* weight, float eps, const float* d_out, std::int64_t ld_out, bool accumulate,
                         float* dx, std::int64_t ld_dx, float* d_weight);
void weighted_rows(const Exec& exec, std::int64_t n_rows, std::int64_t dim, const float* x, const std::int32_t* row,
                   const float* weight, const float* d_out, float* dx, float* d_weight);
void square_sums(const Exec& exec, std::int64_t n_rows, std::int64_t dim, const float* x, std::int64_t ldx, float* sum);
void scatter_rows(const Exec& exec, const std::int32_t* ids, std::int64_t n_ids, std::int64_t dim, const float* x,
                  float* sum);
void cross_entropy(const Exec& exec, std::int64_t n_rows, std::int64_t vocab, float factor, const std::int32_t* target,
                   float* logits, std::int64_t ld, double* nll);
void divergence(const Exec& exec, std::int64_t n_rows, std::int64_t vocab, float factor, const float* teacher,
                float* logits, std::int64_t ld, double* divergence);
void attention_gradient(const Exec& exec, const AttentionShape& shape, const float* q, const float* k, const float* v,
                        const float* out, const float* d_out, float* dq, float* dk, float* dv, float* d_sinks);

}  // namespace voronoi::kernels::gpu
