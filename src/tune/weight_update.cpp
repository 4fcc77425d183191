#include "tune/weight_update.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "core/bytes.h"
#include "core/error.h"
#include "tune/code_update.h"
#include "tune/loss_sum.h"
#include "tune/sequences.h"

namespace voronoi::tune {
namespace {

std::int64_t n_weights(const TunedBlock::Linear& linear) { return linear.out_features * linear.in_features; }

std::int64_t n_weights(const TunedBlock& block) {
  std::int64_t n = 0;
  for (const TunedBlock::Linear& linear : block.linears()) n += n_weights(linear);
  return n;
}

}  // namespace

double weight_rate(double nominal_bits, std::int64_t hidden_size) {
  return 0.75 * buffer_rate(nominal_bits, hidden_size);
}

WeightUpdate::WeightUpdate(backend::Context& context, const comm::Communicator& world,
                           const std::vector<std::unique_ptr<TunedBlock>>& blocks, const WeightReader& read_weight)
    : MovingCodes(context, world, blocks), masters_(blocks.size()), sums_(blocks.size()) {
  for (std::int64_t layer = 0; layer < std::ssize(blocks); ++layer) {
    if (!owns(layer)) continue;
    for (std::size_t i = 0; i < blocks[static_cast<std::size_t>(layer)]->linears().size(); ++i) {
      const std::vector<float> weight = read_weight(blocks[static_cast<std::size_t>(layer)]->linears()[i]);
      Master master;
      master.followed = follower(layer, i).start(context.pool(), weight);
      master.unit = std::sqrt(mean_square(master.followed.values));
      masters_[static_cast<std::size_t>(layer)].push_back(std::move(master));
    }
  }
}

int WeightUpdate::owner(std::int64_t layer) const {
  int rank = 0;
  while (share_of(std::ssize(blocks_), rank, world_.size()).last <= layer) ++rank;
  return rank;
}

format::UniformFollower& WeightUpdate::follower(std::int64_t layer, std::size_t linear) const {
  auto* found =
      dynamic_cast<format::UniformFollower*>(blocks_[static_cast<std::size_t>(layer)]->linears()[linear].matrix.get());
  VORONOI_REQUIRE(found != nullptr, "weights are trained of linears that follow them");
  return *found;
}

void WeightUpdate::take(std::int64_t layer, std::int64_t stripe, const TunedBlock& block) {
  std::vector<float> all;
  all.reserve(static_cast<std::size_t>(n_weights(block)));
  for (std::size_t i = 0; i < block.linears().size(); ++i) {
    std::vector<float>& part = gradient_[i];
    // An expert without tokens moves nothing.
    if (part.empty())
      all.resize(all.size() + static_cast<std::size_t>(n_weights(block.linears()[i])), 0.0F);
    else
      all.insert(all.end(), part.begin(), part.end());
    part = {};
  }
  gradient_.clear();
  sums_[static_cast<std::size_t>(layer)].add(stripe, std::move(all));
}

void WeightUpdate::recode(std::span<const float> /*values*/, const Part& /*part*/) {
  const auto n_layers = std::ssize(blocks_);
  for (std::int64_t layer = 0; layer < n_layers; ++layer) {
    StripeSums& sums = sums_[static_cast<std::size_t>(layer)];
    if (!owns(layer)) {
      sums.send(world_, owner(layer));
      continue;
    }
    for (int rank = 0; rank < world_.size(); ++rank)
      if (rank != world_.rank()) sums.receive(world_, rank);
  }
  for (std::int64_t layer = 0; layer < n_layers; ++layer)
    if (owns(layer)) step(layer, sums_[static_cast<std::size_t>(layer)].total());
  tell_codes();
}

void WeightUpdate::step(std::int64_t layer, std::span<const float> gradient) {
  const std::vector<TunedBlock::Linear>& linears = blocks_[static_cast<std::size_t>(layer)]->linears();
  for (std::size_t i = 0; i < linears.size(); ++i) {
    const std::int64_t n = n_weights(linears[i]);
    Master& master = masters_[static_cast<std::size_t>(layer)][i];
    const Segment segment{linears[i].name, {}, Kind::weight, 0, n, master.unit};
    tune::step(context_.pool(), {&segment, 1}, rate_, gradient.first(static_cast<std::size_t>(n)), master.adam,
               master.followed.values);
    gradient = gradient.subspan(static_cast<std::size_t>(n));
    follower(layer, i).follow(context_.pool(), master.followed);
  }
}

void WeightUpdate::tell_codes() {
  if (world_.size() == 1) return;
  std::vector<std::byte> mine;
  for (std::int64_t layer = 0; layer < std::ssize(blocks_); ++layer) {
    if (!owns(layer)) continue;
    for (const TunedBlock::Linear& linear : blocks_[static_cast<std::size_t>(layer)]->linears()) {
      const std::vector<std::byte> codes = linear.matrix->codes();
      mine.insert(mine.end(), codes.begin(), codes.end());
    }
  }
  // Ranks own blocks in their order.
  std::vector<std::byte> all;
  for (const std::vector<std::byte>& part : world_.all_gather(mine)) all.insert(all.end(), part.begin(), part.end());
  set_codes(all);
}

MovingCodes::Settled WeightUpdate::settled(std::int64_t layer) const {
  Settled settled;
  const std::vector<TunedBlock::Linear>& linears = blocks_[static_cast<std::size_t>(layer)]->linears();
  for (std::size_t i = 0; i < linears.size(); ++i) {
    const Master& master = masters_[static_cast<std::size_t>(layer)][i];
    const auto add = [&](const char* what, std::span<const float> values) {
      if (!values.empty())
        settled.push_back(named_array(linears[i].name + what, core::DType::f32, std::as_bytes(values)));
    };
    add(".weight", master.followed.values);
    add(".margins", master.followed.margins);
    add(".first", master.adam.first);
    add(".second", master.adam.second);
    const auto steps = static_cast<double>(master.adam.steps);
    settled.push_back(named_array(linears[i].name + ".steps", core::DType::f64, std::as_bytes(std::span(&steps, 1))));
  }
  return settled;
}

void WeightUpdate::set_settled(std::int64_t layer, const Settled& arrays) {
  const std::vector<TunedBlock::Linear>& linears = blocks_[static_cast<std::size_t>(layer)]->linears();
  for (std::size_t i = 0; i < linears.size(); ++i) {
    Master& master = masters_[static_cast<std::size_t>(layer)][i];
    const auto bytes_of = [&](const std::string& what) -> std::span<const std::byte> {
      for (const format::NamedArray& array : arrays)
        if (array.name == linears[i].name + what) return array.bytes;
      return {};
    };
    const auto take = [&](const char* what, std::size_t size) {
      std::vector<float> values = core::values_of<float>(bytes_of(what));
      VORONOI_REQUIRE(values.size() == size, "weights of another linear");
      return values;
    };
    const auto n = static_cast<std::size_t>(n_weights(linears[i]));
    master.followed.values = take(".weight", n);
    master.followed.margins = take(".margins", master.followed.margins.size());
    const std::vector<double> steps = core::values_of<double>(bytes_of(".steps"));
    VORONOI_REQUIRE(steps.size() == 1, "steps of another linear");
    master.adam.steps = static_cast<std::int64_t>(steps.front());
    master.adam.first = take(".first", master.adam.steps > 0 ? n : 0);
    master.adam.second = take(".second", master.adam.steps > 0 ? n : 0);
  }
}

void WeightUpdate::drop() {
  for (StripeSums& sums : sums_) sums.clear();
  for (std::size_t layer = 0; layer < masters_.size(); ++layer)
    for (std::size_t i = 0; i < masters_[layer].size(); ++i) {
      masters_[layer][i].followed = follower(static_cast<std::int64_t>(layer), i).start(context_.pool(), {});
      masters_[layer][i].adam = {};
    }
}

}  // namespace voronoi::tune
