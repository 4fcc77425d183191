// What each row that enters a linear counts in that linear's guided Hessian: how much the loss feels an error there.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "backend/device.h"
#include "calib/residual_stream.h"
#include "comm/common_stop.h"
#include "comm/mpi.h"
#include "model/corpus.h"
#include "model/transformer.h"

namespace voronoi::calib {

/// The weights of one chunk's rows: [layer][site][linear * row groups + group][row], rows as they enter the site (an
/// expert's are those routed to it). Groups that a linear does not have are empty.
using BlockTokenWeights = std::vector<std::vector<std::vector<float>>>;
using ChunkWeights = std::vector<BlockTokenWeights>;

/// For a linear z = W x the mean over its outputs of (dl/dz_j)^2, or over those of each group (calib/row_groups.h), l
/// the sum of the cross-entropies of the text's next tokens (GuidedQuant, arXiv 2505.07004). With H = E[s x x^T],
/// tr(D H D^T) / 2, summed over the groups, is, to second order, what a change D of the weight adds to the loss a
/// token, where the Fisher matrix stands for the curvature. A weight that is not finite counts as 0, one above the
/// group's WeightLimit as much as that: the keys and values of a window's first tokens are felt by all others, and
/// would be all that the Hessian knows.
class TokenWeights {
 public:
  /// Where chunks come from that were made before (empty: nowhere), and where they go; both null: nowhere.
  struct Shelf {
    std::function<ChunkWeights(const ChunkRange&)> take;
    std::function<void(const ChunkRange&, const ChunkWeights&)> keep;
  };

  /// One forward and one backward pass over this rank's chunks, a group of them at a time; collective. transformer: the
  /// original model, with products in f32. told(done, all): passes of a group over a block. row_groups: of a linear, at
  /// most. Throws StopRequested on every rank once a stop was asked for on any.
  TokenWeights(model::Transformer& transformer, backend::Context& context, const comm::Communicator& communicator,
               const model::Windows& windows, const Shelf& shelf, std::function<bool()> stop,
               const std::function<void(std::int64_t done, std::int64_t all)>& told, std::int64_t row_groups = 1);

  std::int64_t row_groups() const { return static_cast<std::int64_t>(row_groups_); }
  /// Of this rank's `chunk`-th chunk.
  std::span<const float> of(std::size_t chunk, std::int64_t layer, std::size_t site, std::size_t linear,
                            std::int64_t group) const {
    return chunks_[chunk][static_cast<std::size_t>(layer)][site]
                  [linear * row_groups_ + static_cast<std::size_t>(group)];
  }

 private:
  /// Limits the weights of all chunks, the same on any number of ranks.
  void limit(const comm::Communicator& communicator);
  void compute(std::span<const ChunkRange> group, std::span<ChunkWeights> weights);
  model::GradientObserver observer(BlockTokenWeights& of_block);

  model::Transformer& transformer_;
  backend::Context& context_;
  const model::Windows& windows_;
  std::size_t row_groups_;
  comm::CommonStop stop_;
  std::function<void()> passed_;  ///< a group went over a block
  std::vector<ChunkWeights> chunks_;
};

/// Host memory that the residual streams between blocks of one group of chunks may take; one chunk always fits.
inline constexpr std::int64_t kGuidedStreamBytes = std::int64_t{4} << 30;

/// Chunks of so many tokens that go through the model together.
std::int64_t guided_group(const model::ModelConfig& config, std::int64_t chunk_tokens);

}  // namespace voronoi::calib
