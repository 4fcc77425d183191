#include "tune/moving_codes.h"

#include <algorithm>
#include <functional>
#include <utility>

#include "backend/tensor.h"
#include "core/error.h"
#include "format/tuned.h"

namespace voronoi::tune {

TunedBlock::WeightObserver MovingCodes::observer(const TunedBlock& block) {
  gradient_.assign(block.linears().size(), {});
  return [this, &block](std::size_t linear, const float* d_weight) {
    const std::int64_t n = block.linears()[linear].out_features * block.linears()[linear].in_features;
    const backend::HostView<float> part(context_, d_weight, n);
    std::vector<float>& sum = gradient_[linear];
    if (sum.empty())
      sum.assign(part.values().begin(), part.values().end());
    else
      std::transform(sum.begin(), sum.end(), part.values().begin(), sum.begin(), std::plus<>());
  };
}

std::vector<std::byte> MovingCodes::codes() const {
  std::vector<std::byte> all;
  for (const auto& block : blocks_)
    for (const TunedBlock::Linear& linear : block->linears()) {
      const std::vector<std::byte> codes = linear.matrix->codes();
      all.insert(all.end(), codes.begin(), codes.end());
    }
  return all;
}

void MovingCodes::set_codes(std::span<const std::byte> codes) {
  for (const auto& block : blocks_)
    for (const TunedBlock::Linear& linear : block->linears()) {
      const auto size = linear.matrix->codes().size();
      VORONOI_REQUIRE(codes.size() >= size, "codes of another model");
      linear.matrix->set_codes(codes.first(size));
      codes = codes.subspan(size);
    }
  VORONOI_REQUIRE(codes.empty(), "codes of another model");
}

void MovingCodes::keep_best() {
  if (world_.rank() == 0) best_ = codes();
}

void MovingCodes::go_back() {
  std::vector<std::byte> codes = world_.rank() == 0 ? best_ : this->codes();
  world_.broadcast(codes, 0);
  set_codes(codes);
  drop();
}

format::NamedArray named_array(std::string name, core::DType dtype, std::span<const std::byte> bytes) {
  const std::int64_t n = std::ssize(bytes) / core::dtype_size(dtype);
  return {std::move(name), dtype, {n}, {bytes.begin(), bytes.end()}};
}

}  // namespace voronoi::tune
