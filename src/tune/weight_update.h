// Weights that are trained while their codes follow: the self-distillation of BitDistiller (Du et al. 2024, section
// 3.2), which is quantization-aware training with a straight-through gradient.
//
// Behind every packed linear stands a dense fp32 weight. It begins at the unquantized one, brought into the cells of
// the codes that were found; each step moves it down the derivative by the rounded weight, and grids and codes follow
// (format/uniform_follower.h).
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "comm/mpi.h"
#include "format/uniform_follower.h"
#include "tune/moving_codes.h"
#include "tune/optimizer.h"
#include "tune/stripe_sums.h"
#include "tune/tuned_block.h"

namespace voronoi::tune {

/// A learning rate that needs nobody to watch it, as a share of the root mean square of a linear's weight: as
/// buffer_rate, 0.015 at 2 bits a weight in narrow models.
double weight_rate(double nominal_bits, std::int64_t hidden_size);

/// Weights, moments and steps are those of the rank that owns the block; what the ranks' sequences give of derivatives
/// is summed there (StripeSums), and everyone is told codes and scales. AdamW without decay, as BitDistiller has it.
class WeightUpdate final : public MovingCodes {
 public:
  /// The unquantized weight [out, in] of a linear.
  using WeightReader = std::function<std::vector<float>(const TunedBlock::Linear& linear)>;

  /// References must outlive it. The linears of the blocks are followers. read_weight: of this rank's blocks, here.
  WeightUpdate(backend::Context& context, const comm::Communicator& world,
               const std::vector<std::unique_ptr<TunedBlock>>& blocks, const WeightReader& read_weight);

  bool takes(std::int64_t /*layer*/, std::int64_t /*stripe*/) const override { return true; }
  void take(std::int64_t layer, std::int64_t stripe, const TunedBlock& block) override;
  /// The step of the weights, and their codes after them.
  void recode(std::span<const float> values, const Part& part) override;

  void settle() override {}
  bool owns(std::int64_t layer) const override { return owner(layer) == world_.rank(); }
  /// By the linear's name with .weight, .margins, .first and .second, in fp32; .steps in fp64.
  Settled settled(std::int64_t layer) const override;
  void set_settled(std::int64_t layer, const Settled& arrays) override;
  /// Weights begin anew at the decoded ones; sums that were not stepped with are gone.
  void drop() override;

  /// Of a linear of a block that this rank owns.
  const format::FollowedWeight& followed(std::int64_t layer, std::size_t linear) const {
    return masters_[static_cast<std::size_t>(layer)][linear].followed;
  }

 private:
  struct Master {
    format::FollowedWeight followed;
    Adam adam;
    double unit = 0;  // root mean square of the weight at first
  };

  /// Blocks are divided evenly, in their order.
  int owner(std::int64_t layer) const;
  format::UniformFollower& follower(std::int64_t layer, std::size_t linear) const;
  void step(std::int64_t layer, std::span<const float> gradient);
  void tell_codes();

  std::vector<std::vector<Master>> masters_;  // by block and linear; empty of what is another rank's
  std::vector<StripeSums> sums_;              // by block: its linears one after the other
};

}  // namespace voronoi::tune
