// Moving the codes of a linear packed in uniform codes. Host memory throughout.
#pragma once

#include <cstdint>
#include <vector>

#include "core/thread_pool.h"
#include "kernels/uniform.h"

namespace voronoi::format {

/// As TunedMatrix::recode; scale [out, n_groups], target [out, in]. codes: those of `packed`. Weights of a group whose
/// scale is 0 stay.
std::int64_t recode_uniform(core::ThreadPool& pool, const kernels::PackedUniform& packed, const float* scale,
                            const float* target, double share, std::vector<std::uint32_t>& codes);

}  // namespace voronoi::format
