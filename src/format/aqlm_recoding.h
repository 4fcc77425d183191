// Codes of the format `aqlm` that follow a dense weight: Format::tuned()'s recode. Host memory.
#pragma once

#include <cstdint>
#include <vector>

#include "core/thread_pool.h"
#include "kernels/aqlm.h"

namespace voronoi::format {

/// See TunedMatrix::recode. A vector is a group of a row. Its codes are chosen codebook by codebook, the others fixed,
/// until none changes: from those that it has, and from none, one codebook after the other; the nearer result counts.
/// codes8, codes16: those of `tuned`, one of them empty, which get the new ones.
std::int64_t recode_aqlm(core::ThreadPool& pool, const kernels::TunedAqlm& tuned, const float* target, double share,
                         std::vector<std::uint8_t>& codes8, std::vector<std::uint16_t>& codes16);

}  // namespace voronoi::format
