// Codes that move: the V step of PV-Tuning (Malinovskii et al. 2024, section 3) beside the descent of the numbers.
//
// A dense buffer of each weight, which begins at the decoded weight, takes adaptive steps down the derivative by the
// weight; of each linear the share of vectors whose buffer is furthest from their value is then coded anew.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "comm/mpi.h"
#include "tune/moving_codes.h"
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
/// The numbers have come to rest before the codes move: the share of their own learning rate that they go on with,
/// half of it in narrow models, an eighth from a width of 576 on.
double rate_beside_codes(std::int64_t hidden_size);

/// Derivatives by weights are never summed over sequences or ranks: block b takes those of the sequences of stripe b
/// mod batch, and the rank that has the stripe alone holds the block's buffers and does its searches. All others are
/// told the codes that changed. So nothing depends on the number of ranks.
class CodeUpdate final : public MovingCodes {
 public:
  /// References must outlive it.
  CodeUpdate(backend::Context& context, const comm::Communicator& world, const Sequences& sequences,
             const std::vector<std::unique_ptr<TunedBlock>>& blocks);

  bool takes(std::int64_t layer, std::int64_t stripe) const override { return layer % batch_ == stripe; }
  /// The step of the block's buffers.
  void take(std::int64_t layer, std::int64_t stripe, const TunedBlock& block) override;
  /// Codes follow their buffers.
  void recode(std::span<const float> values, const Part& part) override;

  /// Buffers are rounded to bf16, with the means at 0.
  void settle() override;
  bool owns(std::int64_t layer) const override;
  /// By the linear's name, in bf16; of some linears or none at first.
  Settled settled(std::int64_t layer) const override;
  void set_settled(std::int64_t layer, const Settled& arrays) override;
  /// Buffers begin anew at the decoded weights.
  void drop() override;

 private:
  struct Buffer {
    std::vector<float> target, mean_square;
    float unit = 0;  // root mean square of the target when it began or settled
    std::int64_t steps = 0;
    void begin();
  };

  std::int64_t batch_;
  Share stripes_;                             // of this rank
  std::vector<std::vector<Buffer>> buffers_;  // by block and linear; empty of what is another rank's
};

}  // namespace voronoi::tune
