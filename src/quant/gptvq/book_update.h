// GPTVQ's codebook update: with the codes fixed, tr((W - Q) H (W - Q)^T) is a least-squares problem in the centroids of
// all codebooks of a group of rows, and in those alone.
#pragma once

#include <span>

#include "core/thread_pool.h"
#include "quant/gptvq/codes.h"
#include "quant/quantizer.h"

namespace voronoi::quant {

/// Of the rows of a member.
struct UpdateFigures {
  std::vector<double> before, after;  ///< the loss, by row group, with what is stored
  std::int64_t steps = 0;             ///< products with the Hessian that were made for groups
};

/// hessian: undamped [n, n] in natural order, host. By conjugate gradients from the codebooks at hand, rounded to what
/// is stored; a group whose loss would not fall by that keeps what it has. published: by the authors' rule, 25 steps of
/// Adam from a rate of 1e-3, begun again at a tenth of it once the loss is above that at the start; theirs watches the
/// loss of all rows, this one that of each group; what comes out is taken as it is. The bytes do not depend on which
/// other groups the member holds, nor on the threads.
UpdateFigures update_books(core::ThreadPool& pool, const QuantInput& input, std::span<const float> hessian,
                           bool published, GptvqCodes& codes);

}  // namespace voronoi::quant
