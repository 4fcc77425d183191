// Routers of mixtures of experts, row by row.
#pragma once

#include <cstdint>

#include "kernels/nn.h"

namespace voronoi::kernels {

/// The numbers of the top_k largest of n values, largest first, the lower number first among equals; distinct and in
/// range also where there are NaNs.
void choose_largest(std::int64_t n, std::int64_t top_k, const float* values, std::int32_t* chosen);

/// NnKernels::route of one row of sigmoids. work: n_experts values.
void route_sigmoid_row(const RouteShape& shape, const float* logits, const float* bias, float* work,
                       std::int32_t* expert, float* weight);

/// NnGradientKernels::route of one row.
void route_gradient_row(const RouteShape& shape, const float* logits, const std::int32_t* expert, const float* weight,
                        const float* d_weight, float* d_logits);

}  // namespace voronoi::kernels
