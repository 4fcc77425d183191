#include "tune/distillation.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "core/error.h"
#include "model/block_prefetcher.h"
#include "tune/footprint.h"
#include "tune/loss_sum.h"

namespace voronoi::tune {

using backend::Array;
using model::HiddenStates;

Distillation::Distillation(backend::Context& context, const comm::Communicator& world, model::Transformer& student,
                           const TunedBlock::LayerReader& read_layer, std::span<const float> final_norm,
                           const model::Windows& windows, const Sequences& sequences, std::uint64_t seed,
                           std::optional<Residence> residence, PackedParts parts)
    : context_(context),
      world_(world),
      student_(student),
      windows_(windows),
      sequences_(sequences),
      seed_(seed),
      gradient_sum_(context, world) {
  const auto take = [&](std::span<const Segment> segments, std::span<const float> initial) {
    const auto before = static_cast<std::int64_t>(initial_.size());
    first_.push_back(before);
    for (Segment segment : segments) {
      segment.first += before;
      segments_.push_back(std::move(segment));
    }
    initial_.insert(initial_.end(), initial.begin(), initial.end());
  };
  // What it may spend is free now.
  const std::int64_t device_bytes = context.on_host() ? 0 : context.memory().facts(context.exec()).free_bytes;
  TunedSizes sizes;
  for (std::int64_t layer = 0; layer < student.config().n_layers; ++layer) {
    blocks_.push_back(std::make_unique<TunedBlock>(context, student, layer, read_layer, parts));
    take(blocks_.back()->segments(), blocks_.back()->initial());
    sizes.code_bytes += blocks_.back()->code_bytes();
    // Until it is known whether all codes fit.
    if (residence ? residence->codes_on_host : device_bytes > 0) blocks_.back()->keep_codes_on_host();
  }
  norm_ = student.final_norm();
  if (!final_norm.empty()) norm_.assign(loaded_norm(student.config(), final_norm));
  const std::vector<float> norm = norm_.to_host();
  const Segment segment{kFinalNorm, {}, Kind::norm, 0, norm_.size(), std::sqrt(mean_square(norm))};
  take({&segment, 1}, norm);
  sizes.n_parameters = std::ssize(initial_);
  sizes.dtype = student.dtype();
  residence_ = residence
                   ? *residence
                   : choose_residence(student.config(), sizes, windows.context, sequences, world.size(), device_bytes);
  tapes_.resize(static_cast<std::size_t>(residence_.n_taped));
  if (!residence_.codes_on_host)
    for (const auto& block : blocks_) block->keep_codes_on_device();
  parameters_ = Array<float>(context, std::ssize(initial_));
  sums_ = Array<float>(context, std::ssize(initial_));
}

float* Distillation::of_block(Array<float>& all, std::int64_t layer) const {
  return all.data() + first_[static_cast<std::size_t>(layer)];
}

std::span<const float> Distillation::part(std::span<const float> values, std::size_t block) const {
  const auto first = static_cast<std::size_t>(first_[block]);
  return values.subspan(
      first, (block + 1 < first_.size() ? static_cast<std::size_t>(first_[block + 1]) : values.size()) - first);
}

std::vector<float> Distillation::rounded(std::span<const float> values) const {
  std::vector<float> result;
  for (std::size_t b = 0; b < blocks_.size(); ++b) {
    const std::vector<float> block = blocks_[b]->rounded(part(values, b));
    result.insert(result.end(), block.begin(), block.end());
  }
  for (const float value : part(values, blocks_.size())) result.push_back(rounded_norm(student_.config(), value));
  return result;
}

BlockResult Distillation::result(std::int64_t layer, std::span<const float> values) const {
  const auto block = static_cast<std::size_t>(layer);
  return blocks_[block]->result(part(values, block));
}

std::vector<float> Distillation::final_norm(std::span<const float> values) const {
  return stored_norm(student_.config(), part(values, blocks_.size()));
}

void Distillation::place(std::span<const float> values) {
  parameters_.assign(values);
  norm_.assign(part(values, blocks_.size()));
}

HiddenStates Distillation::embed(std::int64_t window) {
  return student_.embed(ids_of(windows_, window), 1, windows_.context);
}

void Distillation::teach(model::Transformer& teacher, const std::function<void(std::int64_t, std::int64_t)>& told) {
  const std::vector<std::int64_t> mine = windows_of(sequences_, world_.rank(), world_.size());
  const model::ModelConfig& config = teacher.config();
  const std::int64_t bytes = windows_.context * config.hidden_size * std::int64_t{sizeof(float)};
  const auto group = static_cast<std::size_t>(std::max<std::int64_t>(1, kTeacherBytes / bytes));
  const auto n_groups = static_cast<std::int64_t>((mine.size() + group - 1) / group);
  std::vector<std::int64_t> layers;
  for (std::int64_t layer = 0; layer < config.n_layers; ++layer) layers.push_back(layer);
  for (std::int64_t g = 0; g < n_groups; ++g) {
    const std::size_t first = static_cast<std::size_t>(g) * group, last = std::min(first + group, mine.size());
    std::vector<HiddenStates> hidden;
    for (std::size_t i = first; i < last; ++i) hidden.push_back(embed(mine[i]));
    model::BlockPrefetcher prefetcher(teacher, context_, layers);
    for (const std::int64_t layer : layers) {
      const model::BlockWeights weights = prefetcher.next();
      for (HiddenStates& states : hidden) teacher.run_block(weights, states);
      told(g * config.n_layers + layer + 1, n_groups * config.n_layers);
    }
    for (std::size_t i = first; i < last; ++i) {
      teacher_[mine[i]] = hidden[i - first].values.to_host();
      hidden[i - first].values = {};
    }
  }
}

double Distillation::confidence() {
  const Share share = share_of(std::ssize(sequences_.held_out), world_.rank(), world_.size());
  const std::int64_t n_tokens = windows_.context, vocab = student_.config().vocab_size;
  const std::int64_t n = std::min(kConfidencePositions, n_tokens);
  std::vector<std::int64_t> rows;
  for (std::int64_t i = 0; i < n; ++i) rows.push_back((i + 1) * n_tokens / n - 1);
  std::vector<double> largest;
  for (std::int64_t i = share.first; i < share.last; ++i) {
    const std::vector<float> logits =
        student_.logits(states(teacher_.at(sequences_.held_out[static_cast<std::size_t>(i)])), rows);
    for (auto row = logits.begin(); row != logits.end(); row += vocab) {
      const auto most = static_cast<double>(*std::max_element(row, row + vocab));
      double sum = 0;
      std::for_each(row, row + vocab, [&](float logit) { sum += std::exp(static_cast<double>(logit) - most); });
      largest.push_back(1 / sum);
    }
  }
  return mean(all_numbers(world_, largest));
}

template <class Use>
void Distillation::visit_blocks(std::int64_t first, std::int64_t n, std::int64_t step, const Use& use) {
  for (std::int64_t i = 0, layer = first; i < n; ++i, layer += step) {
    TunedBlock& block = *blocks_[static_cast<std::size_t>(layer)];
    if (assembled_ != nullptr && assembled_ != &block) assembled_->drop_for(block);
    assembled_ = &block;
    const model::BlockWeights& weights = block.assemble(of_block(parameters_, layer));
    if (i + 1 < n) blocks_[static_cast<std::size_t>(layer + step)]->fetch();
    use(layer, block, weights);
  }
}

void Distillation::run_blocks(std::int64_t first, std::int64_t last, HiddenStates& hidden, bool with_tapes) {
  visit_blocks(first, last - first, 1, [&](std::int64_t layer, TunedBlock&, const model::BlockWeights& weights) {
    student_.run_block(weights, hidden, nullptr, with_tapes ? &tape(layer) : nullptr);
  });
}

HiddenStates Distillation::states(const std::vector<float>& values) const {
  return {1, windows_.context, Array<float>(context_, std::span<const float>(values))};
}

double Distillation::sequence_loss(std::int64_t window) {
  HiddenStates hidden = embed(window);
  run_blocks(0, std::ssize(blocks_), hidden);
  return mean(student_.divergence(hidden, states(teacher_.at(window)), 0, &norm_, false, reverse_).loss);
}

template <class Input>
void Distillation::block_gradient(std::int64_t layer, TunedBlock& block, const Input& input, HiddenStates& gradient) {
  const bool moves = codes_ != nullptr && codes_->takes(layer, stripe_);
  block.backward(student_, of_block(parameters_, layer), input, gradient, of_block(sums_, layer),
                 moves ? codes_->observer(block) : nullptr);
  if (moves) codes_->take(layer, stripe_, block);
}

double Distillation::sequence_gradient(std::int64_t window, std::int64_t stripe) {
  const std::int64_t n_layers = std::ssize(blocks_), untaped = n_untaped();
  const std::int64_t stride =
      stream_stride(untaped, windows_.context, student_.config().hidden_size, residence_.stream_bytes);
  std::vector<std::vector<float>> kept;
  stripe_ = stripe;
  HiddenStates hidden = embed(window);
  for (std::int64_t first = 0; first < untaped; first += stride) {
    kept.push_back(hidden.values.to_host());
    run_blocks(first, std::min(first + stride, untaped), hidden);
  }
  run_blocks(untaped, n_layers, hidden, true);
  model::Transformer::LossGradient loss =
      student_.divergence(hidden, states(teacher_.at(window)),
                          1.0F / static_cast<float>(windows_.context * sequences_.batch), &norm_, false, reverse_);
  context_.nn().add(context_.exec(), loss.norm.size(), loss.norm.data(), of_block(sums_, n_layers));
  hidden = {};
  visit_blocks(n_layers - 1, n_layers - untaped, -1, [&](std::int64_t layer, TunedBlock& block, const auto&) {
    block_gradient(layer, block, tape(layer), loss.hidden);
  });
  untaped_gradient(std::move(kept), stride, loss.hidden);
  return mean(loss.loss);
}

void Distillation::untaped_gradient(std::vector<std::vector<float>> kept, std::int64_t stride, HiddenStates& gradient) {
  while (!kept.empty()) {
    const std::int64_t first = (std::ssize(kept) - 1) * stride, last = std::min(first + stride, n_untaped());
    std::vector<HiddenStates> inputs;
    inputs.push_back(states(kept.back()));
    kept.pop_back();
    for (std::int64_t layer = first; layer + 1 < last; ++layer) {
      HiddenStates next{1, windows_.context, inputs.back().values.clone()};
      run_blocks(layer, layer + 1, next);
      inputs.push_back(std::move(next));
    }
    visit_blocks(last - 1, last - first, -1, [&](std::int64_t layer, TunedBlock& block, const auto&) {
      block_gradient(layer, block, inputs.back(), gradient);
      inputs.pop_back();
    });
  }
}

double Distillation::differentiate(std::int64_t step, std::span<const float> values, std::vector<float>& gradient) {
  place(values);
  const Share stripes = share_of(sequences_.batch, world_.rank(), world_.size());
  std::vector<double> losses;
  for (std::int64_t stripe = stripes.first; stripe < stripes.last; ++stripe) {
    sums_.zero();
    losses.push_back(sequence_gradient(window_of(sequences_, seed_, step, stripe), stripe));
    gradient_sum_.add(stripe, sums_);
  }
  gradient = gradient_sum_.total(static_cast<std::int64_t>(initial_.size()));
  return mean(all_numbers(world_, losses));
}

double Distillation::held_out_loss(std::span<const float> values) {
  place(values);
  const Share share = share_of(std::ssize(sequences_.held_out), world_.rank(), world_.size());
  std::vector<double> losses;
  for (std::int64_t i = share.first; i < share.last; ++i)
    losses.push_back(sequence_loss(sequences_.held_out[static_cast<std::size_t>(i)]));
  return mean(all_numbers(world_, losses));
}

}  // namespace voronoi::tune
