// Perplexity: non-overlapping windows, mean negative log-likelihood of context - 1 predictions each, exp (the protocol
// of GPTQ and its kin).
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <vector>

#include "backend/device.h"
#include "comm/mpi.h"
#include "core/types.h"
#include "model/corpus.h"
#include "model/weights.h"

namespace voronoi::validation {

/// Sums of negative log-likelihood, by window; nothing for those still to do.
using WindowSums = std::vector<std::optional<double>>;

struct PerplexityResult {
  std::int64_t windows = 0;
  std::int64_t predictions = 0;  ///< windows * (context - 1)
  double nll = 0;                ///< mean over predictions, natural logarithm
  double perplexity = 0;         ///< exp(nll)
};

/// Windows that are done already, and what to do with those that get done.
struct PerplexityProgress {
  WindowSums sums;         ///< by window, the same on every rank
  std::int64_t batch = 0;  ///< windows a rank takes at a time; 0: as many as fit kHiddenBytes
  /// Called on rank 0 after every batch.
  std::function<void(const WindowSums&)> keep;
};

/// Collective over the communicator: windows are divided over ranks, block weights are read once a batch of windows.
/// dtype: as of model::Transformer. The result is the same, to the bit, at any number of ranks, in any batches and
/// however it was interrupted. Throws NumericError when the likelihoods are not finite; on request to stop, on all
/// ranks in order (comm::on_root), StopRequested: the windows of the batch at work are lost.
PerplexityResult perplexity(const model::WeightSource& source, backend::Context& context,
                            const comm::Communicator& communicator, const model::Windows& windows, core::DType dtype,
                            PerplexityProgress progress);

}  // namespace voronoi::validation
