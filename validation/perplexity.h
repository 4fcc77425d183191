// Perplexity: non-overlapping windows, mean negative log-likelihood of context - 1 predictions each, exp (the protocol
// of GPTQ and its kin).
#pragma once

#include <cstdint>

#include "backend/device.h"
#include "comm/mpi.h"
#include "core/types.h"
#include "model/corpus.h"
#include "model/weights.h"

namespace voronoi::validation {

struct PerplexityResult {
  std::int64_t windows = 0;
  std::int64_t predictions = 0;  ///< windows * (context - 1)
  double nll = 0;                ///< mean over predictions, natural logarithm
  double perplexity = 0;         ///< exp(nll)
};

/// Collective over the communicator: windows are divided over ranks, block weights are read once a batch of windows.
/// dtype: as of model::Transformer. The result is the same, to the bit, at any number of ranks. Throws NumericError
/// when the likelihoods are not finite.
PerplexityResult perplexity(const model::WeightSource& source, backend::Context& context,
                            const comm::Communicator& communicator, const model::Windows& windows, core::DType dtype);

}  // namespace voronoi::validation
