#include "quant/two_rotations.h"

#include <cmath>

#include "backend/tensor.h"
#include "core/hash.h"
#include "core/index.h"
#include "core/random.h"
#include "format/format.h"

namespace voronoi::quant {

using core::index;

namespace {

/// Rows apart from each other, so that the sum is the same wherever it is made.
double root_mean_square(std::int64_t out, std::int64_t in, const std::vector<float>& weight) {
  double sum = 0;
  for (std::int64_t row = 0; row < out; ++row) {
    double of_row = 0;
    for (std::int64_t c = 0; c < in; ++c) {
      const auto value = static_cast<double>(weight[index(row * in + c)]);
      of_row += value * value;
    }
    sum += of_row;
  }
  return std::sqrt(sum / (static_cast<double>(out) * static_cast<double>(in)));
}

}  // namespace

format::HostRotation random_rotation(std::uint64_t seed, const std::string& side, std::int64_t n) {
  const core::CounterRandom random(seed, std::stoull(core::sha256(side).substr(0, 16), nullptr, 16));
  std::vector<std::uint32_t> signs(index(format::sign_words(n)));
  for (std::size_t word = 0; word < signs.size(); ++word)
    signs[word] = static_cast<std::uint32_t>(random.bits(word) >> 32);
  if (n % 32 != 0) signs.back() &= (1U << (n % 32)) - 1U;
  return {n, signs};
}

void HadamardInput::apply(core::ThreadPool& pool, std::int64_t rows, std::span<float> vectors) const {
  kernels::cpu().rotation.turn_rows({&pool, nullptr}, rotation_.view(), false, rows, vectors.data());
}

std::unique_ptr<SiteState> turned_site(std::uint64_t seed, const SiteInput& site) {
  auto state = std::make_unique<SiteState>();
  state->rotation = std::make_unique<HadamardInput>(seed, site.name, site.in_features);
  return state;
}

TurnedWeight::TurnedWeight(backend::Context& context, const QuantInput& input, std::uint64_t seed)
    : input_(input),
      in_(input.site == nullptr ? nullptr : dynamic_cast<const HadamardInput*>(input.site->rotation.get())),
      out_(random_rotation(seed, input.name + ":out", input.out_features)),
      weight_(input.weight.begin(), input.weight.end()) {
  kernels::cpu().rotation.turn_columns({&context.pool(), nullptr}, out_.view(), false, input.in_features,
                                       weight_.data());
}

std::vector<std::uint32_t> TurnedWeight::in_signs() const {
  return in_ == nullptr ? std::vector<std::uint32_t>{} : in_->rotation().signs();
}

float TurnedWeight::bring_to(double unit) {
  const auto scale = static_cast<float>(root_mean_square(input_.out_features, input_.in_features, weight_) / unit);
  const float by = scale > 0 ? 1 / scale : 0;
  for (float& value : weight_) value = std::isfinite(by) ? value * by : 0;
  return scale;
}

void TurnedWeight::add_statistics(std::map<std::string, double>& statistics) const {
  const PreparedHessian& hessian = *input_.hessian;
  statistics["damping"] = hessian.damping;
  statistics["damping_steps"] = hessian.damping_steps;
  statistics["dead_columns"] = static_cast<double>(hessian.dead_columns);
  statistics["rotation_parts_in"] =
      static_cast<double>(in_ == nullptr ? input_.in_features : format::hadamard_plan(input_.in_features).copies);
  statistics["rotation_parts_out"] = static_cast<double>(format::hadamard_plan(input_.out_features).copies);
}

double turned_error(backend::Context& context, core::Team& team, const QuantInput& input,
                    const format::Encoding& encoding) {
  std::vector<float> decoded;
  {
    backend::Array<float> weight(context, input.out_features * input.in_features);
    encoding.format->upload(context, encoding)->decode_f32(context, weight.data());
    decoded = weight.to_host();
  }
  if (input.site != nullptr && input.site->rotation)
    input.site->rotation->apply(context.pool(), input.out_features, decoded);
  return relative_hessian_error(context, team, input.out_features, input.in_features, input.weight, decoded,
                                input.hessian->h);
}

double turning_flops(std::int64_t out_features, std::int64_t in_features) {
  const auto turn = [](std::int64_t n) {
    const format::HadamardPlan plan = format::hadamard_plan(n);
    return 2 * static_cast<double>(plan.order > 1 ? plan.order : 0);
  };
  return 2 * (turn(out_features) + turn(in_features));
}

}  // namespace voronoi::quant
