#include "tune/gradient_sum.h"

#include <algorithm>
#include <span>

namespace voronoi::tune {

GradientSum::GradientSum(backend::Context& context, const comm::Communicator& world)
    : context_(context), world_(world), transport_(context, world) {}

void GradientSum::add(std::int64_t place, const backend::Array<float>& gradient) {
  if (!tree_) tree_ = std::make_unique<calib::SumTree>(context_, gradient.size());
  tree_->add(place, gradient.data());
}

std::vector<float> GradientSum::total(std::int64_t n) {
  if (!tree_) tree_ = std::make_unique<calib::SumTree>(context_, n);
  for (int rank = 1; rank < world_.size(); ++rank) {
    if (world_.rank() == rank) transport_.send(*tree_, 0);
    if (world_.rank() == 0) transport_.receive(*tree_, rank);
  }
  std::vector<float> total(static_cast<std::size_t>(n));
  if (world_.rank() == 0) {
    const std::vector<double> sum = tree_->total().to_host();
    std::transform(sum.begin(), sum.end(), total.begin(), [](double value) { return static_cast<float>(value); });
  }
  tree_.reset();
  world_.broadcast(std::as_writable_bytes(std::span(total)), 0);
  return total;
}

}  // namespace voronoi::tune
