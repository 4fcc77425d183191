// The metric of a first search, in which what is not yet coded makes up for the errors before it.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "core/thread_pool.h"

namespace voronoi::quant {

/// With H = C C^T, C lower, the least loss that errors d_k, d_k+1, .. of the groups from k on leave, once those before
/// k make up for them as best they can, is the sum of |C_kk^T d_k + sum_{j > k} C_jk^T d_j|^2. So a search from the
/// last group to the first that counts so is one in the metric G, G_jk = C_jk C_kk^T for j >= k and 0 else, in the
/// place of H: [n, n], rows j, in natural order; groups of `group` columns. Empty: H does not factor.
std::vector<float> feedback_metric(core::ThreadPool& pool, std::int64_t n, std::int64_t group,
                                   std::span<const float> hessian);

}  // namespace voronoi::quant
