// Block by block: the numbers and norms of one block by the error of what leaves it, on the inputs that the tuned
// blocks before it give, against what leaves the unquantized block on its own inputs.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <span>
#include <vector>

#include "backend/tensor.h"
#include "comm/mpi.h"
#include "model/corpus.h"
#include "model/transformer.h"
#include "tune/descent.h"
#include "tune/gradient_sum.h"
#include "tune/sequences.h"
#include "tune/tuned_block.h"

namespace voronoi::tune {

/// The two residual streams of this rank's sequences, on their way through the blocks, in host memory. Loss: the mean
/// square of the difference between them, over the mean square of the unquantized one (of the training sequences).
class BlockTuning {
 public:
  /// Embeds this rank's sequences. `transformer` runs blocks of the model, whoever's. References must outlive it.
  BlockTuning(backend::Context& context, const comm::Communicator& world, model::Transformer& transformer,
              const model::Windows& windows, const Sequences& sequences, std::uint64_t seed);

  /// The unquantized stream passes the block: what the block's output is held against from now on. Collective.
  void advance_teacher(const model::BlockWeights& weights);
  /// The tuned stream leaves the block with these parameters.
  void advance_student(TunedBlock& block, std::span<const float> values);
  /// The same of a block that was tuned before.
  void advance_student(const model::BlockWeights& weights);

  // Collective; the same on every rank.
  double differentiate(TunedBlock& block, std::int64_t step, std::span<const float> values,
                       std::vector<float>& gradient);
  double held_out_loss(TunedBlock& block, std::span<const float> values);

 private:
  struct Streams {
    std::vector<float> student, teacher;
  };
  model::HiddenStates states(const std::vector<float>& values);
  /// Mean square difference of what left the block, which becomes the difference itself.
  double difference(model::HiddenStates& hidden, const Streams& streams);

  backend::Context& context_;
  const comm::Communicator& world_;
  model::Transformer& transformer_;
  const model::Windows& windows_;
  const Sequences& sequences_;
  std::uint64_t seed_;
  std::map<std::int64_t, Streams> streams_;  ///< by window
  double energy_ = 1;                        ///< mean square of the unquantized stream
  model::BlockTape tape_;
  GradientSum gradient_sum_;
};

}  // namespace voronoi::tune
