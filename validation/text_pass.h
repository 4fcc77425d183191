// Passes of models over windows of a text, block by block: what each gives a window, before it becomes a figure.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "backend/device.h"
#include "comm/mpi.h"
#include "core/types.h"
#include "model/corpus.h"
#include "model/weights.h"

namespace voronoi::validation {

/// By window, a row of numbers of one length; nothing for those still to do.
using WindowRows = std::vector<std::optional<std::vector<double>>>;

/// What of a pass is done already, and what to do with what gets done.
struct PassProgress {
  std::vector<WindowRows> rows;  ///< by model, the same on every rank
  std::int64_t batch = 0;        ///< windows a rank takes at a time; 0: as many as fit kHiddenBytes
  /// Called on rank 0 after every batch.
  std::function<void(const std::vector<WindowRows>&)> keep;
  /// Called on rank 0 after every block, with what it shows.
  std::function<void(const std::string&)> doing;
};

/// Collective over the communicator: windows are divided over ranks, block weights are read once a batch of windows.
/// A row: {sum over the context - 1 predictions of the negative log-likelihood, natural logarithm}. dtype: as of
/// model::Transformer. The result is the same, to the bit, at any number of ranks, in any batches and however it was
/// interrupted. Throws NumericError when likelihoods are not finite; on request to stop, on all ranks,
/// StopRequested: the windows of the batch at work are lost.
WindowRows likelihood_pass(const model::WeightSource& source, backend::Context& context,
                           const comm::Communicator& communicator, const model::Windows& windows, core::DType dtype,
                           PassProgress progress);

/// Where the numbers of a comparison's row stand; the divergences of the context - 1 predictions follow.
enum ComparisonRow { kRowNll = 0, kRowReferenceNll, kRowSameChoices, kRowDivergences };

/// Likewise of several models beside a reference, which goes over the text once for all of them; all have one
/// vocabulary. By model, rows as ComparisonRow says: the sums of negative log-likelihood are likelihood_pass's to the
/// bit. Of all of them embedding and head are held.
std::vector<WindowRows> comparison_pass(const model::WeightSource& reference,
                                        const std::vector<const model::WeightSource*>& models,
                                        backend::Context& context, const comm::Communicator& communicator,
                                        const model::Windows& windows, core::DType dtype, PassProgress progress);

}  // namespace voronoi::validation
