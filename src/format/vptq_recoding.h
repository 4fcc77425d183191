// Moving the codes of a linear packed in VPTQ's layout. Host memory throughout.
#pragma once

#include <cstdint>
#include <vector>

#include "core/thread_pool.h"
#include "kernels/vptq.h"

namespace voronoi::format {

/// As TunedMatrix::recode; target [out, in]. indices and outlier_indices: those of tuned.packed. A vector is searched
/// where its column's bias is taken off and its scale divided out; one of a column whose scale is 0 stays. With a
/// residual the best of the pairs made of a main centroid (the nearest ones, that of the present pair, and the nearest
/// to what the present residual leaves) and the residual centroid nearest to what it leaves.
std::int64_t recode_vptq(core::ThreadPool& pool, const kernels::TunedVptq& tuned, const float* target, double share,
                         std::vector<std::uint32_t>& indices, std::vector<std::uint16_t>& outlier_indices);

}  // namespace voronoi::format
