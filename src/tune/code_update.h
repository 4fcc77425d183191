// Codes that move: the V step of PV-Tuning (Malinovskii et al. 2024, section 3) beside the descent of the numbers.
//
// A dense buffer of each weight, which begins at the decoded weight, takes adaptive steps down the derivative by the
// weight; of each linear the share of vectors whose buffer is furthest from their value is then coded anew.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "comm/mpi.h"
#include "core/thread_pool.h"
#include "tune/sequences.h"
#include "tune/tuned_block.h"

namespace voronoi::tune {

/// How fast the mean square of the derivative is forgotten, and the share of vectors that is coded anew in a step.
inline constexpr double kBufferBeta = 0.95, kRecodedShare = 0.01;
/// The largest step of the buffer before the schedule, as a share of the root mean square of a linear's weight: 0.02 at
/// 2 bits a weight, a quarter of it with each further bit. Steps of one sign add up over the inputs of a linear, so
/// it falls with the width beyond kNarrow.
inline constexpr std::int64_t kNarrow = 115;
double buffer_rate(double nominal_bits, std::int64_t hidden_size);
/// The numbers have come to rest before the codes move: the share of their own learning rate that they go on with. All
/// of it in narrow models, a quarter from a width of 576 on.
double rate_beside_codes(std::int64_t hidden_size);

/// Derivatives by weights are never summed over sequences or ranks: block b takes those of the sequences of stripe b
/// mod batch, and the rank that has the stripe alone holds the block's buffers and does its searches. All others are
/// told the codes that changed. So nothing depends on the number of ranks.
class CodeUpdate {
 public:
  /// References must outlive it.
  CodeUpdate(backend::Context& context, const comm::Communicator& world, const Sequences& sequences,
             const std::vector<std::unique_ptr<TunedBlock>>& blocks);

  /// Of the steps to come, with the schedule.
  void set_rate(double rate) { rate_ = rate; }
  /// Makes the buffers what is kept of them: rounded to bf16, with the means at 0. Where a state is kept they settle,
  /// so that who goes on from it does what those do that were there.
  void settle();
  /// Whether the block's buffers take derivatives of the stripe.
  bool takes(std::int64_t layer, std::int64_t stripe) const { return layer % batch_ == stripe; }
  /// Sees the derivatives of the block whose step is next.
  TunedBlock::WeightObserver observer(const TunedBlock& block);
  /// The step of its buffers; the block is still assembled.
  void descend(std::int64_t layer, const TunedBlock& block);
  /// Codes follow their buffers, with these parameters of the whole model; collective. part: see Distillation::part.
  using Part = std::function<std::span<const float>(std::span<const float> values, std::size_t block)>;
  void recode(std::span<const float> values, const Part& part);

  /// Buffers begin anew at the decoded weights.
  void drop_buffers();
  /// Whether this rank holds the block's buffers, and these: by linear, settled; of some linears or none at first.
  bool owns(std::int64_t layer) const;
  using Settled = std::map<std::string, std::vector<std::uint16_t>>;  ///< bits of bf16
  Settled settled(std::int64_t layer) const;
  void set_settled(std::int64_t layer, const Settled& buffers);

  /// All codes of the model, in host memory.
  std::vector<std::byte> codes() const;
  void set_codes(std::span<const std::byte> codes);
  /// The best codes are kept by rank 0 alone.
  void keep_best();
  std::vector<std::byte>& best() { return best_; }
  /// Back to the best codes, and the buffers begin anew at the decoded weights; collective.
  void go_back();

 private:
  struct Buffer {
    std::vector<float> target, mean_square;
    float unit = 0;  // root mean square of the target when it began or settled
    std::int64_t steps = 0;
    void begin();
  };

  backend::Context& context_;
  const comm::Communicator& world_;
  const std::vector<std::unique_ptr<TunedBlock>>& blocks_;
  std::int64_t batch_;
  Share stripes_;  // of this rank
  double rate_ = 0;
  std::vector<std::vector<Buffer>> buffers_;  // by block and linear; empty of what is another rank's
  std::vector<std::vector<float>> gradient_;  // by linear, of the block whose step is next
  std::vector<std::byte> best_;
};

}  // namespace voronoi::tune
