// The hidden states of a set of windows on their way through the blocks, data-parallel over ranks.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "backend/device.h"
#include "comm/common_stop.h"
#include "comm/mpi.h"
#include "model/corpus.h"
#include "model/transformer.h"

namespace voronoi::calib {

/// Number of chunks the windows are divided into: a function of the calibration set alone, never of the ranks. One a
/// window up to 64 windows; then one for every 2048 tokens, so that short windows share one, and no fewer than 64.
std::int64_t calibration_chunks(std::int64_t n_sequences, std::int64_t context);

/// Sequences [first_sequence, first_sequence + n_sequences) of the calibration set.
struct ChunkRange {
  std::int64_t id = 0, first_sequence = 0, n_sequences = 0;
};
/// The chunks of a rank, in their order.
std::vector<ChunkRange> chunks_of_rank(std::int64_t n_sequences, std::int64_t context, int rank, int n_ranks);
/// The tokens [n_sequences, context] of a chunk.
std::span<const std::int32_t> ids_of(const model::Windows& windows, const ChunkRange& chunk);

/// How many of chunks [first, last) have rows that are kept out of the Hessians, to judge by: every round(1 / share)-th
/// one, and none where share is 0.
std::int64_t n_held_out(std::int64_t first, std::int64_t last, double share);
inline bool is_held_out(std::int64_t chunk, double share) { return n_held_out(chunk, chunk + 1, share) > 0; }

/// This rank's share of the residual stream: a run of the chunks, in their order. Once a stop was asked for on any
/// rank, work on the chunks throws StopRequested on all of them, soon and within the block that is at work; the stream
/// then stands somewhere between two blocks and is of no more use.
class ResidualStream {
 public:
  struct Chunk {
    std::int64_t id = 0, first_sequence = 0;
    model::HiddenStates hidden;
  };

  /// Embeds this rank's windows; collective. stop: whether this rank is to stop; null: never. The references must
  /// outlive the stream.
  ResidualStream(model::Transformer& transformer, backend::Context& context, const comm::Communicator& communicator,
                 const model::Windows& windows, std::function<bool()> stop = nullptr);

  /// Of all ranks together.
  std::int64_t n_chunks() const { return n_chunks_; }
  std::span<const Chunk> chunks() const { return chunks_; }
  /// work(i) for the i-th chunk of this rank, one after another; collective.
  void each_chunk(const std::function<void(std::size_t index)>& work);
  /// Moves every chunk through a block; collective.
  void advance(const model::BlockWeights& weights);
  /// The `index`-th chunk of this rank becomes `hidden`, of the same shape.
  void replace(std::size_t index, const model::HiddenStates& hidden);

 private:
  model::Transformer& transformer_;
  backend::Context& context_;
  comm::CommonStop stop_;
  std::int64_t n_chunks_;
  std::vector<Chunk> chunks_;
};

}  // namespace voronoi::calib
