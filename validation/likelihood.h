// Log-likelihoods of continuations, as lm-evaluation-harness asks for them.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "backend/device.h"
#include "comm/mpi.h"
#include "core/types.h"
#include "model/weights.h"
#include "validation/request_packs.h"

namespace voronoi::validation {

struct Likelihood {
  double log_likelihood = 0;  ///< natural logarithm, summed over the continuation
  bool is_greedy = false;     ///< every token of the continuation is the model's first choice
};
/// By request; nothing for those still to do.
using Likelihoods = std::vector<std::optional<Likelihood>>;

/// Requests that are done already, and what to do with those that get done.
struct LikelihoodProgress {
  Likelihoods done;  ///< by request, the same on every rank; empty: none
  /// Numbers of requests that are packed together, one behind the other: a part's packs are its own, whatever stands
  /// beside it. Empty: all are one part.
  std::vector<std::size_t> parts;
  std::int64_t batch = 0;  ///< packs a rank takes at a time; 0: as many as fit the memory meant for them
  /// Called on rank 0 after every batch.
  std::function<void(const Likelihoods&)> keep;
  /// Called on rank 0 after every block, with what it shows.
  std::function<void(const std::string&)> doing;
};

/// Collective over the communicator: packs of requests are divided over ranks, block weights are read once a batch of
/// packs. dtype: as of model::Transformer. By request; the same, to the bit, at any number of ranks, in any batches and
/// however it was interrupted. Throws NumericError when a likelihood is not finite, FormatError for ids outside the
/// vocabulary; on request to stop, on all ranks, StopRequested: the packs at work are lost.
std::vector<Likelihood> likelihoods(const model::WeightSource& source, backend::Context& context,
                                    const comm::Communicator& communicator, std::span<const ScoredInput> inputs,
                                    core::DType dtype, LikelihoodProgress progress);

}  // namespace voronoi::validation
