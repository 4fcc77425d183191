// The hidden states of a set of windows on their way through the blocks, data-parallel over ranks.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "backend/device.h"
#include "comm/mpi.h"
#include "model/corpus.h"
#include "model/transformer.h"

namespace voronoi::calib {

/// Number of chunks the windows are divided into: a function of the calibration set alone, never of the ranks.
std::int64_t calibration_chunks(std::int64_t n_sequences);

/// This rank's share of the residual stream: a run of the chunks, in their order.
class ResidualStream {
 public:
  struct Chunk {
    std::int64_t id = 0, first_sequence = 0;
    model::HiddenStates hidden;
  };

  /// Embeds this rank's windows. The references must outlive the stream.
  ResidualStream(model::Transformer& transformer, backend::Context& context, const comm::Communicator& communicator,
                 const model::Windows& windows);

  /// Of all ranks together.
  std::int64_t n_chunks() const { return n_chunks_; }
  std::span<const Chunk> chunks() const { return chunks_; }
  /// Moves every chunk through a block.
  void advance(const model::BlockWeights& weights);
  /// The `index`-th chunk of this rank becomes `hidden`, of the same shape.
  void replace(std::size_t index, const model::HiddenStates& hidden);

 private:
  model::Transformer& transformer_;
  backend::Context& context_;
  std::int64_t n_chunks_;
  std::vector<Chunk> chunks_;
};

}  // namespace voronoi::calib
