// The sum of the sequences' gradients of a step over all ranks, in an order that depends on the sequences alone.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "backend/tensor.h"
#include "calib/rank_sums.h"
#include "calib/sum_tree.h"
#include "comm/mpi.h"

namespace voronoi::tune {

class GradientSum {
 public:
  /// Collective. References must outlive it.
  GradientSum(backend::Context& context, const comm::Communicator& world);

  /// The gradient of the sequence in place `place` of the step; a rank's places follow one another.
  void add(std::int64_t place, const backend::Array<float>& gradient);
  /// The sum of all ranks' gradients of n numbers, on every rank, and an empty sum for the next step; collective.
  std::vector<float> total(std::int64_t n);

 private:
  backend::Context& context_;
  calib::RankSums rank_sums_;
  std::unique_ptr<calib::SumTree> tree_;
};

}  // namespace voronoi::tune
