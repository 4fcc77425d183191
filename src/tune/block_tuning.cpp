#include "tune/block_tuning.h"

#include <algorithm>

#include "tune/loss_sum.h"

namespace voronoi::tune {

using backend::Array;
using model::HiddenStates;

BlockTuning::BlockTuning(backend::Context& context, const comm::Communicator& world, model::Transformer& transformer,
                         const model::Windows& windows, const Sequences& sequences, std::uint64_t seed)
    : context_(context),
      world_(world),
      transformer_(transformer),
      windows_(windows),
      sequences_(sequences),
      seed_(seed),
      gradient_sum_(context, world) {
  for (const std::int64_t window : windows_of(sequences, world.rank(), world.size())) {
    const HiddenStates hidden = transformer.embed(ids_of(windows, window), 1, windows.context);
    Streams& streams = streams_[window];
    streams.student = streams.teacher = hidden.values.to_host();
  }
}

HiddenStates BlockTuning::states(const std::vector<float>& values) {
  return {1, windows_.context, Array<float>(context_, std::span<const float>(values))};
}

void BlockTuning::advance_teacher(const model::BlockWeights& weights) {
  for (auto& [window, streams] : streams_) {
    HiddenStates hidden = states(streams.teacher);
    transformer_.run_block(weights, hidden);
    streams.teacher = hidden.values.to_host();
  }
  const Share stripes = share_of(sequences_.batch, world_.rank(), world_.size());
  std::vector<double> energies;
  for (std::int64_t i = stripes.first * sequences_.stripe_length(); i < stripes.last * sequences_.stripe_length(); ++i)
    energies.push_back(mean_square(streams_.at(sequences_.training[static_cast<std::size_t>(i)]).teacher));
  energy_ = std::max(mean(all_numbers(world_, energies)), 1e-30);
}

void BlockTuning::advance_student(TunedBlock& block, std::span<const float> values) {
  const Array<float> parameters(context_, values);
  advance_student(block.assemble(parameters.data()));
  block.drop();
}

void BlockTuning::advance_student(const model::BlockWeights& weights) {
  for (auto& [window, streams] : streams_) {
    HiddenStates hidden = states(streams.student);
    transformer_.run_block(weights, hidden);
    streams.student = hidden.values.to_host();
  }
}

double BlockTuning::difference(HiddenStates& hidden, const Streams& streams) {
  // hidden - teacher, as -teacher + hidden.
  HiddenStates target = states(streams.teacher);
  context_.nn().scale(context_.exec(), target.values.size(), -1.0F, target.values.data());
  context_.nn().add(context_.exec(), target.values.size(), target.values.data(), hidden.values.data());
  return mean_square(hidden.values.to_host()) / energy_;
}

double BlockTuning::differentiate(TunedBlock& block, std::int64_t step, std::span<const float> values,
                                  std::vector<float>& gradient) {
  const Array<float> parameters(context_, values);
  const model::BlockWeights& weights = block.assemble(parameters.data());
  const Share stripes = share_of(sequences_.batch, world_.rank(), world_.size());
  std::vector<double> losses;
  for (std::int64_t stripe = stripes.first; stripe < stripes.last; ++stripe) {
    const Streams& streams = streams_.at(window_of(sequences_, seed_, step, stripe));
    HiddenStates hidden = states(streams.student);
    transformer_.run_block(weights, hidden, nullptr, &tape_);
    losses.push_back(difference(hidden, streams));
    const double factor =
        2.0 / (static_cast<double>(hidden.values.size()) * energy_ * static_cast<double>(sequences_.batch));
    context_.nn().scale(context_.exec(), hidden.values.size(), static_cast<float>(factor), hidden.values.data());
    Array<float> sum(context_, block.n_parameters());
    sum.zero();
    block.backward(transformer_, parameters.data(), tape_, hidden, sum.data());
    gradient_sum_.add(stripe, sum);
  }
  block.drop();
  gradient = gradient_sum_.total(block.n_parameters());
  return mean(all_numbers(world_, losses));
}

double BlockTuning::held_out_loss(TunedBlock& block, std::span<const float> values) {
  const Array<float> parameters(context_, values);
  const model::BlockWeights& weights = block.assemble(parameters.data());
  const Share share = share_of(std::ssize(sequences_.held_out), world_.rank(), world_.size());
  std::vector<double> losses;
  for (std::int64_t i = share.first; i < share.last; ++i) {
    const Streams& streams = streams_.at(sequences_.held_out[static_cast<std::size_t>(i)]);
    HiddenStates hidden = states(streams.student);
    transformer_.run_block(weights, hidden);
    losses.push_back(difference(hidden, streams));
  }
  block.drop();
  return mean(all_numbers(world_, losses));
}

}  // namespace voronoi::tune
