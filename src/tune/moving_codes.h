// What moves the codes of the packed linears beside the descent of the numbers: see code_update.h and weight_update.h.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "backend/device.h"
#include "comm/mpi.h"
#include "core/types.h"
#include "format/encoding.h"
#include "tune/tuned_block.h"

namespace voronoi::tune {

class MovingCodes {
 public:
  /// References must outlive it.
  MovingCodes(backend::Context& context, const comm::Communicator& world,
              const std::vector<std::unique_ptr<TunedBlock>>& blocks)
      : context_(context), world_(world), blocks_(blocks) {}
  virtual ~MovingCodes() = default;
  MovingCodes(const MovingCodes&) = delete;
  MovingCodes& operator=(const MovingCodes&) = delete;

  /// Of the steps to come, with the schedule.
  void set_rate(double rate) { rate_ = rate; }
  /// Whether it takes the derivatives by the weights of a block that the sequence of a stripe gives.
  virtual bool takes(std::int64_t layer, std::int64_t stripe) const = 0;
  /// Sees those that take() is then called for.
  TunedBlock::WeightObserver observer(const TunedBlock& block);
  /// All of a sequence's derivatives of the block were seen, which is still assembled.
  virtual void take(std::int64_t layer, std::int64_t stripe, const TunedBlock& block) = 0;
  /// Codes move, with these parameters of the whole model; collective. part: see Distillation::part.
  using Part = std::function<std::span<const float>(std::span<const float> values, std::size_t block)>;
  virtual void recode(std::span<const float> values, const Part& part) = 0;

  /// Makes what moves them what is kept of it. Where a state is kept that is called in a descent that nobody stops,
  /// too, so that who goes on from it does what those do that were there.
  virtual void settle() = 0;
  /// Whether this rank holds what moves the codes of a block, and that, as of settle(): arrays by name.
  virtual bool owns(std::int64_t layer) const = 0;
  using Settled = std::vector<format::NamedArray>;
  virtual Settled settled(std::int64_t layer) const = 0;
  /// Throws InternalError for arrays of other linears.
  virtual void set_settled(std::int64_t layer, const Settled& arrays) = 0;
  /// It begins anew at the present codes.
  virtual void drop() = 0;

  /// All codes of the model, in host memory.
  std::vector<std::byte> codes() const;
  void set_codes(std::span<const std::byte> codes);
  /// The best codes are kept by rank 0 alone.
  void keep_best();
  std::vector<std::byte>& best() { return best_; }
  /// Back to the best codes, and drop(); collective.
  void go_back();

 protected:
  backend::Context& context_;
  const comm::Communicator& world_;
  const std::vector<std::unique_ptr<TunedBlock>>& blocks_;
  double rate_ = 0;
  std::vector<std::vector<float>> gradient_;  ///< by linear, of the block that take() is next called for

 private:
  std::vector<std::byte> best_;
};

/// What an array of numbers is kept as.
format::NamedArray named_array(std::string name, core::DType dtype, std::span<const std::byte> bytes);

}  // namespace voronoi::tune
