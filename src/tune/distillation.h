// End to end: the numbers of all packed linears and all norms, by the divergence from the unquantized model.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "backend/tensor.h"
#include "comm/mpi.h"
#include "model/corpus.h"
#include "model/transformer.h"
#include "tune/descent.h"
#include "tune/gradient_sum.h"
#include "tune/moving_codes.h"
#include "tune/residence.h"
#include "tune/sequences.h"
#include "tune/tuned_block.h"

namespace voronoi::tune {

/// Positions of each held-out sequence that Distillation::confidence looks at.
inline constexpr std::int64_t kConfidencePositions = 64;

/// A student and its teacher's last hidden states, which are computed once. Loss: KL(teacher || student) over the
/// vocabulary, mean over the positions of a step's sequences; or a mixture with KL(student || teacher).
class Distillation {
 public:
  /// `student`: reads norms of blocks, head and embedding of what is tuned, in f32; its own final norm is the
  /// teacher's. final_norm: what the tuned one starts from, as its file holds it; empty: the same. References must
  /// outlive it. `residence`: instead of the one that the memory allows.
  Distillation(backend::Context& context, const comm::Communicator& world, model::Transformer& student,
               const TunedBlock::LayerReader& read_layer, std::span<const float> final_norm,
               const model::Windows& windows, const Sequences& sequences, std::uint64_t seed,
               std::optional<Residence> residence = std::nullopt, PackedParts parts = PackedParts::numbers);

  /// Codes move too from now on: `codes` sees the derivatives by weights, and must outlive this.
  void move_codes(MovingCodes& codes) { codes_ = &codes; }
  /// The share of KL(student || teacher) in the loss from now on, 0 .. 1; 0 at first.
  void mix_in_reverse(double share) { reverse_ = share; }
  const std::vector<std::unique_ptr<TunedBlock>>& blocks() const { return blocks_; }
  /// The parameters of a block among those of the model; behind the last block those of the final norm.
  std::span<const float> part(std::span<const float> values, std::size_t block) const;

  /// Hidden states of this rank's sequences behind the teacher's last block. `told`: after each block of a group of
  /// sequences, with its number and how many there are in all; may throw to stop.
  void teach(model::Transformer& teacher, const std::function<void(std::int64_t done, std::int64_t all)>& told);

  /// The teacher's largest probability, mean over positions spread over the held-out sequences; after teach().
  /// Collective, the same on every rank.
  double confidence();

  const Residence& residence() const { return residence_; }
  /// Of the whole model: the blocks in their order, then the final norm.
  const std::vector<Segment>& segments() const { return segments_; }
  const std::vector<float>& initial() const { return initial_; }
  std::vector<float> rounded(std::span<const float> values) const;

  // Collective; the same on every rank.
  double differentiate(std::int64_t step, std::span<const float> values, std::vector<float>& gradient);
  double held_out_loss(std::span<const float> values);

  /// Of rounded parameters: of block `layer`; the final norm as its file holds it.
  BlockResult result(std::int64_t layer, std::span<const float> values) const;
  std::vector<float> final_norm(std::span<const float> values) const;
  static constexpr const char* kFinalNorm = "model.norm.weight";

 private:
  void place(std::span<const float> values);
  model::HiddenStates embed(std::int64_t window);
  model::HiddenStates states(const std::vector<float>& values) const;
  float* of_block(backend::Array<float>& all, std::int64_t layer) const;
  std::int64_t n_untaped() const { return std::ssize(blocks_) - residence_.n_taped; }
  model::BlockTape& tape(std::int64_t layer) { return tapes_[static_cast<std::size_t>(layer - n_untaped())]; }
  /// use(layer, block, weights) for n assembled blocks one after the other, by steps of 1 or -1; the codes of the next
  /// are then on their way.
  template <class Use>
  void visit_blocks(std::int64_t first, std::int64_t n, std::int64_t step, const Use& use);
  /// Blocks [first, last) move the hidden states on.
  void run_blocks(std::int64_t first, std::int64_t last, model::HiddenStates& hidden, bool with_tapes = false);
  /// Loss of one sequence of a stripe; its gradient is added to the device's sums.
  double sequence_gradient(std::int64_t window, std::int64_t stripe);
  /// On the way back through an assembled block: Input: HiddenStates or BlockTape.
  template <class Input>
  void block_gradient(std::int64_t layer, TunedBlock& block, const Input& input, model::HiddenStates& gradient);
  /// The same of blocks that kept no tape, on the way back: `kept` entered blocks 0, stride, 2 stride, ...
  void untaped_gradient(std::vector<std::vector<float>> kept, std::int64_t stride, model::HiddenStates& gradient);
  double sequence_loss(std::int64_t window);

  backend::Context& context_;
  const comm::Communicator& world_;
  model::Transformer& student_;
  const model::Windows& windows_;
  const Sequences& sequences_;
  std::uint64_t seed_;
  Residence residence_;
  std::vector<std::unique_ptr<TunedBlock>> blocks_;
  TunedBlock* assembled_ = nullptr;      ///< the last one, whose dense linears are still there
  std::vector<model::BlockTape> tapes_;  ///< of the last blocks
  std::vector<std::int64_t> first_;      ///< of each block's parameters, then of the final norm's
  std::vector<Segment> segments_;
  std::vector<float> initial_;
  std::map<std::int64_t, std::vector<float>> teacher_;  ///< this rank's windows -> last hidden states
  backend::Array<float> parameters_, sums_;             ///< as values; the gradient of one sequence
  backend::Array<float> norm_;                          ///< the final one, of the parameters
  GradientSum gradient_sum_;
  MovingCodes* codes_ = nullptr;
  double reverse_ = 0;
  std::int64_t stripe_ = 0;  ///< of the sequence that is differentiated
};

}  // namespace voronoi::tune
