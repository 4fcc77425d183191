#include "model/rope.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numbers>

namespace voronoi::model {
namespace {

/// Llama 3.1: long wavelengths are stretched by `factor`, short ones kept, those between blended.
double llama3_frequency(const RopeConfig& rope, double frequency) {
  const double wavelength = 2 * std::numbers::pi / frequency;
  if (wavelength < rope.original_max_position / rope.high_freq_factor) return frequency;
  if (wavelength > rope.original_max_position / rope.low_freq_factor) return frequency / rope.factor;
  const double smooth =
      (rope.original_max_position / wavelength - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor);
  return (1 - smooth) * frequency / rope.factor + smooth * frequency;
}

/// YaRN (Peng et al. 2023, eq. 23 and appendix A.2): the pair index at which a pair turns `rotations` times over the
/// trained length.
double yarn_pair(const RopeConfig& rope, double head_dim, double rotations) {
  return head_dim * std::log(rope.original_max_position / (rotations * 2 * std::numbers::pi)) /
         (2 * std::log(rope.theta));
}

}  // namespace

std::vector<double> rope_frequencies(const RopeConfig& rope, std::int64_t n_turned, std::int64_t length) {
  const std::int64_t half = n_turned / 2;
  const double dim = static_cast<double>(n_turned);
  double ramp_low = 0, ramp_high = 0;
  if (rope.scaling == RopeScaling::yarn) {
    const double low = yarn_pair(rope, dim, rope.beta_fast), high = yarn_pair(rope, dim, rope.beta_slow);
    ramp_low = std::max(rope.truncate ? std::floor(low) : low, 0.0);
    ramp_high = std::min(rope.truncate ? std::ceil(high) : high, dim - 1);
    if (ramp_low == ramp_high) ramp_high += 0.001;
  }
  double theta = rope.theta;
  if (rope.scaling == RopeScaling::dynamic) {
    const double share = static_cast<double>(rope_kind(rope, length)) / rope.original_max_position;
    theta *= std::pow(rope.factor * share - (rope.factor - 1), dim / (dim - 2));
  }
  const std::vector<double>& divisors =
      rope_kind(rope, length) > rope_limit(rope) ? rope.long_factor : rope.short_factor;
  std::vector<double> frequencies(static_cast<std::size_t>(half));
  for (std::int64_t i = 0; i < half; ++i) {
    const double plain = std::pow(theta, -2.0 * static_cast<double>(i) / dim);
    double& frequency = frequencies[static_cast<std::size_t>(i)];
    switch (rope.scaling) {
      case RopeScaling::none:
      case RopeScaling::dynamic:
        frequency = plain;
        break;
      case RopeScaling::longrope:
        frequency = plain / divisors[static_cast<std::size_t>(i)];
        break;
      case RopeScaling::linear:
        frequency = plain / rope.factor;
        break;
      case RopeScaling::llama3:
        frequency = llama3_frequency(rope, plain);
        break;
      case RopeScaling::yarn: {
        const double ramp = std::clamp((static_cast<double>(i) - ramp_low) / (ramp_high - ramp_low), 0.0, 1.0);
        frequency = plain / rope.factor * ramp + plain * (1 - ramp);
        break;
      }
    }
  }
  return frequencies;
}

std::int64_t rope_kind(const RopeConfig& rope, std::int64_t length) {
  if (rope.scaling == RopeScaling::dynamic) return std::max(length, rope_limit(rope));
  if (rope.scaling == RopeScaling::longrope && length > rope_limit(rope)) return rope_limit(rope) + 1;
  return 0;
}

std::int64_t rope_limit(const RopeConfig& rope) {
  if (rope.scaling != RopeScaling::dynamic && rope.scaling != RopeScaling::longrope)
    return std::numeric_limits<std::int64_t>::max();
  return static_cast<std::int64_t>(rope.original_max_position);
}

double rope_attention_factor(const RopeConfig& rope) {
  if (rope.scaling != RopeScaling::yarn && rope.scaling != RopeScaling::longrope) return 1;
  if (rope.attention_factor) return *rope.attention_factor;
  if (rope.factor <= 1) return 1;
  if (rope.scaling == RopeScaling::yarn) return 0.1 * std::log(rope.factor) + 1;
  return std::sqrt(1 + std::log(rope.factor) / std::log(rope.original_max_position));
}

std::vector<float> rope_table(const RopeConfig& rope, std::int64_t n_turned, std::int64_t n_positions,
                              std::int64_t length) {
  const std::vector<double> frequencies = rope_frequencies(rope, n_turned, length);
  const double factor = rope_attention_factor(rope);
  std::vector<float> table(static_cast<std::size_t>(n_positions * n_turned));
  float* row = table.data();
  for (std::int64_t position = 0; position < n_positions; ++position, row += n_turned)
    for (std::size_t i = 0; i < frequencies.size(); ++i) {
      const double angle = static_cast<double>(position) * frequencies[i];
      row[i] = static_cast<float>(std::cos(angle) * factor);
      row[i + frequencies.size()] = static_cast<float>(std::sin(angle) * factor);
    }
  return table;
}

std::vector<float> growth_table(const ModelConfig& config, std::int64_t n_positions) {
  const std::int64_t half = config.head_dim / 2;
  std::vector<float> table(static_cast<std::size_t>(2 * n_positions * half));
  for (std::int64_t position = 0; position < n_positions; ++position) {
    const double steps = std::floor(static_cast<double>(position + 1) / config.query_floor);
    std::fill_n(table.begin() + 2 * position * half, half,
                static_cast<float>(1 + config.query_growth * std::log1p(steps)));
  }
  return table;
}

}  // namespace voronoi::model
