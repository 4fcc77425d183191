#include "tune/tuned_block.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "core/error.h"
#include "core/work_counts.h"
#include "format/format.h"
#include "format/uniform_follower.h"
#include "model/block_norms.h"
#include "tune/loss_sum.h"

namespace voronoi::tune {
namespace {

Kind kind_of(format::ParameterKind kind) {
  switch (kind) {
    case format::ParameterKind::codebook:
      return Kind::codebook;
    case format::ParameterKind::scale:
      return Kind::scale;
    case format::ParameterKind::bias:
      return Kind::bias;
    case format::ParameterKind::factor:
      return Kind::factor;
  }
  throw core::InternalError("kind of a parameter");
}

template <class T>
auto part(T values, const Segment& segment) {
  return values.subspan(static_cast<std::size_t>(segment.first), static_cast<std::size_t>(segment.size));
}

float norm_offset(const model::ModelConfig& config) { return config.norm_plus_one ? 1.0F : 0.0F; }

}  // namespace

float rounded_norm(const model::ModelConfig& config, float value) {
  return core::round_to(config.stored_dtype, value - norm_offset(config)) + norm_offset(config);
}

std::vector<float> stored_norm(const model::ModelConfig& config, std::span<const float> values) {
  std::vector<float> stored;
  for (const float value : values) stored.push_back(value - norm_offset(config));
  return stored;
}

std::vector<float> loaded_norm(const model::ModelConfig& config, std::span<const float> stored) {
  std::vector<float> values;
  for (const float value : stored) values.push_back(value + norm_offset(config));
  return values;
}

TunedBlock::TunedBlock(backend::Context& context, const model::Transformer& transformer, std::int64_t layer,
                       const LayerReader& read_layer, PackedParts parts)
    : context_(context),
      config_(transformer.config()),
      dtype_(transformer.dtype()),
      weights_(transformer.load_block(layer)) {
  VORONOI_REQUIRE(dtype_ != core::DType::f16, "derivatives go beyond the range of f16");
  const std::vector<model::SiteSpec> sites = model::block_sites(config_, layer);
  for (std::size_t s = 0; s < sites.size(); ++s)
    for (std::size_t i = 0; i < sites[s].linears.size(); ++i) {
      const model::LinearSpec& spec = sites[s].linears[i];
      const std::optional<format::Encoding> stored = read_layer(spec.name);
      if (!stored) continue;
      const format::Encoding& encoding = *stored;
      weights_.linears[s][i] = model::LinearWeight{};
      weights_.linears[s][i].dtype = dtype_;
      Linear linear{s,
                    i,
                    spec.name,
                    spec.out_features,
                    spec.in_features,
                    n_parameters_,
                    encoding.dtype,
                    parts == PackedParts::followers ? format::make_follower(context, encoding)
                                                    : encoding.format->tuned(context, encoding)};
      if (!linear.matrix)
        throw core::ConfigError("--tune-phases: " + spec.name + " is stored as '" +
                                std::string(encoding.format->name()) + "', which has no " +
                                (parts == PackedParts::followers ? "grids that follow a weight" : "numbers to tune") +
                                "; leave it out");
      const std::vector<float> values = linear.matrix->initial();
      initial_.insert(initial_.end(), values.begin(), values.end());
      for (const format::ParameterRun& run : linear.matrix->runs())
        segments_.push_back({spec.name, run.array, kind_of(run.kind), n_parameters_ + run.first, run.size, 0});
      n_parameters_ += linear.matrix->n_parameters();
      linears_.push_back(std::move(linear));
    }
  add_norms();
  for (Segment& segment : segments_)
    segment.unit = std::sqrt(mean_square(part(std::span<const float>(initial_), segment)));
}

std::int64_t TunedBlock::code_bytes() const {
  std::int64_t total = 0;
  for (const Linear& linear : linears_) total += linear.matrix->size_bytes();
  return total;
}

void TunedBlock::keep_codes_on_host() {
  codes_on_host_ = true;
  drop();
}

void TunedBlock::keep_codes_on_device() {
  codes_on_host_ = false;
  for (const Linear& linear : linears_) linear.matrix->enter_device(true);
  context_.memory().uploads_join(context_.exec());
}

void TunedBlock::fetch() {
  for (const Linear& linear : linears_) linear.matrix->enter_device(false);
}

void TunedBlock::add_norms() {
  first_norm_ = std::ssize(segments_);
  model::for_each_norm(config_, weights_.layer, weights_, [&](const std::string& name, const auto& norm) {
    const std::vector<float> values = norm.to_host();
    segments_.push_back({name, {}, Kind::norm, n_parameters_, norm.size(), 0});
    n_parameters_ += norm.size();
    initial_.insert(initial_.end(), values.begin(), values.end());
  });
}

template <class T>
void TunedBlock::fit(backend::Array<T>& array, std::int64_t n) {
  if (array.size() == n) return;
  array = {};  // before the new one is there
  array = backend::Array<T>(context_, n);
}

const model::BlockWeights& TunedBlock::assemble(const float* parameters) {
  if (codes_on_host_) {
    fetch();
    context_.memory().uploads_join(context_.exec());
  }
  for (const Linear& linear : linears_) {
    model::LinearWeight& weight = dense(linear);
    const std::int64_t n = linear.out_features * linear.in_features;
    fit(weight.wide, n);
    linear.matrix->decode(context_, parameters + linear.first, weight.wide.data());
    if (dtype_ == core::DType::f32) continue;
    fit(weight.narrow, n);
    context_.linalg().round_16(context_.exec(), n, weight.wide.data(), dtype_, weight.narrow.data());
  }
  auto segment = segments_.begin() + first_norm_;
  model::for_each_norm(config_, weights_.layer, weights_, [&](const std::string&, auto& norm) {
    context_.memory().copy_on_device(context_.exec(), parameters + segment->first,
                                     norm.size() * std::int64_t{sizeof(float)}, norm.data());
    ++segment;
  });
  return weights_;
}

void TunedBlock::drop() {
  for (const Linear& linear : linears_) {
    dense(linear).wide = {};
    dense(linear).narrow = {};
    if (codes_on_host_) linear.matrix->leave_device();
  }
  d_weight_ = {};
}

void TunedBlock::drop_for(TunedBlock& next) {
  for (std::size_t i = 0; i < std::min(linears_.size(), next.linears_.size()); ++i)
    next.dense(next.linears_[i]) = std::move(dense(linears_[i]));
  next.d_weight_ = std::move(d_weight_);
  drop();
}

void TunedBlock::backward(model::Transformer& transformer, const float* parameters, const model::HiddenStates& input,
                          model::HiddenStates& gradient, float* sum, const WeightObserver& observer) {
  backward_from(transformer, parameters, input, gradient, sum, observer);
}

void TunedBlock::backward(model::Transformer& transformer, const float* parameters, const model::BlockTape& tape,
                          model::HiddenStates& gradient, float* sum, const WeightObserver& observer) {
  backward_from(transformer, parameters, tape, gradient, sum, observer);
}

template <class Input>
void TunedBlock::backward_from(model::Transformer& transformer, const float* parameters, const Input& input,
                               model::HiddenStates& gradient, float* sum, const WeightObserver& observer) {
  const auto& exec = context_.exec();
  const auto observe = [&](const model::SiteSpec&, std::size_t site_index, std::size_t index, std::int64_t n_rows,
                           const float* x, const float* dy) {
    const auto linear = std::find_if(linears_.begin(), linears_.end(), [&](const Linear& candidate) {
      return candidate.site == site_index && candidate.index == index;
    });
    if (linear == linears_.end()) return;  // it is not quantized
    const std::int64_t n_out = linear->out_features, n_in = linear->in_features;
    if (d_weight_.size() < n_out * n_in) fit(d_weight_, n_out * n_in);
    core::count_product(n_out, n_in, n_rows);
    if (dtype_ == core::DType::f32)
      context_.linalg().gemm_f32(exec, true, false, n_out, n_in, n_rows, 1.0F, dy, n_out, x, n_in, 0.0F,
                                 d_weight_.data(), n_in);
    else
      context_.linalg().gemm_16_outer(exec, n_out, n_in, n_rows, dy, n_out, x, n_in, dtype_, d_weight_.data(), n_in);
    linear->matrix->add_gradient(context_, parameters + linear->first, dense(*linear).wide.data(), d_weight_.data(),
                                 sum + linear->first);
    if (observer) observer(static_cast<std::size_t>(linear - linears_.begin()), d_weight_.data());
  };
  model::BlockGradients gradients = transformer.make_gradients(weights_);
  transformer.backward_block(weights_, input, gradient, &gradients, observe);
  auto segment = segments_.begin() + first_norm_;
  model::for_each_norm(config_, weights_.layer, gradients, [&](const std::string&, const auto& norm) {
    context_.nn().add(exec, norm.size(), norm.data(), sum + segment->first);
    ++segment;
  });
}

std::vector<float> TunedBlock::rounded(std::span<const float> parameters) const {
  VORONOI_REQUIRE(static_cast<std::int64_t>(parameters.size()) == n_parameters_, "parameters of another block");
  std::vector<float> values(parameters.begin(), parameters.end());
  for (const Linear& linear : linears_)
    for (const format::ParameterRun& run : linear.matrix->runs()) {
      const auto own = std::span(values).subspan(static_cast<std::size_t>(linear.first + run.first),
                                                 static_cast<std::size_t>(run.size));
      for (float& value : own) value = core::round_to(run.dtype, value);
    }
  for (const Segment& segment : segments_)
    if (segment.kind == Kind::norm)
      for (float& value : part(std::span(values), segment)) value = rounded_norm(config_, value);
  return values;
}

BlockResult TunedBlock::result(std::span<const float> parameters) const {
  BlockResult result;
  for (const Linear& linear : linears_) {
    try {
      result.linears.emplace(linear.name, linear.matrix->rounded(parameters.subspan(
                                              static_cast<std::size_t>(linear.first),
                                              static_cast<std::size_t>(linear.matrix->n_parameters()))));
    } catch (core::Error& error) {
      error.add_context(linear.name);
      throw;
    }
  }
  for (const Segment& segment : segments_)
    if (segment.kind == Kind::norm) result.norms[segment.tensor] = stored_norm(config_, part(parameters, segment));
  return result;
}

}  // namespace voronoi::tune
