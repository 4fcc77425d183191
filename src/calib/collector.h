// Drives the blocks over the calibration windows, data-parallel over ranks, and collects one Hessian a site.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "backend/device.h"
#include "comm/mpi.h"
#include "model/corpus.h"
#include "model/transformer.h"

namespace voronoi::calib {

struct SiteHessian {
  std::string site;  ///< "qkv", "o", "gate_up", "down"
  std::int64_t n = 0, n_tokens = 0;
  std::vector<float> lower;  ///< packed lower triangle of E[x x^T]
};

/// Number of chunks the windows are divided into: a function of the calibration set alone, never of the ranks.
std::int64_t calibration_chunks(std::int64_t n_sequences);

/// Holds this rank's share of the residual stream. All calls are collective over the communicator, with the same
/// arguments.
class Collector {
 public:
  /// Embeds this rank's windows. The references must outlive the collector.
  Collector(model::Transformer& transformer, backend::Context& context, const comm::Communicator& communicator,
            const model::Windows& windows);

  /// Runs the block's weights over the residual stream and returns the Hessians of the sites that this rank owns (sites
  /// are dealt to ranks in turn). `advance`: whether the stream leaves the block; without it the stream stays as it
  /// was. Throws NumericError naming block and site when an activation is not finite.
  std::vector<SiteHessian> collect(const model::BlockWeights& weights, bool advance);
  /// Only moves the residual stream through the block.
  void advance(const model::BlockWeights& weights);

 private:
  struct Chunk {
    std::int64_t id = 0;
    model::HiddenStates hidden;
  };
  model::Transformer& transformer_;
  backend::Context& context_;
  const comm::Communicator& communicator_;
  std::vector<Chunk> chunks_;
};

}  // namespace voronoi::calib
