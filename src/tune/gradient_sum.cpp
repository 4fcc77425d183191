#include "tune/gradient_sum.h"

namespace voronoi::tune {

GradientSum::GradientSum(backend::Context& context, const comm::Communicator& world)
    : context_(context), rank_sums_(context, world) {}

void GradientSum::add(std::int64_t place, const backend::Array<float>& gradient) {
  if (!tree_) tree_ = std::make_unique<calib::SumTree>(context_, gradient.size());
  tree_->add(place, gradient.data());
}

std::vector<float> GradientSum::total(std::int64_t n) {
  if (!tree_) tree_ = std::make_unique<calib::SumTree>(context_, n);
  std::vector<float> total = rank_sums_.sum(*tree_);
  tree_.reset();
  return total;
}

}  // namespace voronoi::tune
