// GPTVQ's compression of codebooks of single columns by a singular value decomposition (van Baalen et al. 2024,
// appendix G of arXiv 2402.15319): the centroids of a codebook in rising order are sums of few vectors, which all
// codebooks of an operator share, times the codebook's own factors.
#pragma once

#include <cstdint>

#include "core/team.h"
#include "quant/gptvq/codes.h"

namespace voronoi::quant {

/// Whole codebooks, which the members' are together, become factors of codebook_bits of the rank vectors that lose the
/// least of them; indices follow. Centroids count as many points as have them in all codebooks; published: one each.
/// rank is in 1 .. k - 1. Collective; the basis is the same for every member and depends on no division into members.
void compress_books(core::Team& team, std::int64_t rank, std::int64_t codebook_bits, bool published, GptvqCodes& codes);

}  // namespace voronoi::quant
