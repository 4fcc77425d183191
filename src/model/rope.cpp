#include "model/rope.h"

#include <algorithm>
#include <cmath>
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

std::vector<double> rope_frequencies(const RopeConfig& rope, std::int64_t head_dim) {
  const std::int64_t half = head_dim / 2;
  const double dim = static_cast<double>(head_dim);
  double ramp_low = 0, ramp_high = 0;
  if (rope.scaling == RopeScaling::yarn) {
    ramp_low = std::max(std::floor(yarn_pair(rope, dim, rope.beta_fast)), 0.0);
    ramp_high = std::min(std::ceil(yarn_pair(rope, dim, rope.beta_slow)), dim - 1);
    if (ramp_low == ramp_high) ramp_high += 0.001;
  }
  std::vector<double> frequencies(static_cast<std::size_t>(half));
  for (std::int64_t i = 0; i < half; ++i) {
    const double plain = std::pow(rope.theta, -2.0 * static_cast<double>(i) / dim);
    double& frequency = frequencies[static_cast<std::size_t>(i)];
    switch (rope.scaling) {
      case RopeScaling::none:
        frequency = plain;
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

double rope_attention_factor(const RopeConfig& rope) {
  if (rope.scaling != RopeScaling::yarn) return 1;
  if (rope.attention_factor) return *rope.attention_factor;
  return rope.factor > 1 ? 0.1 * std::log(rope.factor) + 1 : 1;
}

std::vector<float> rope_table(const RopeConfig& rope, std::int64_t head_dim, std::int64_t n_positions) {
  const std::vector<double> frequencies = rope_frequencies(rope, head_dim);
  const double factor = rope_attention_factor(rope);
  std::vector<float> table(static_cast<std::size_t>(n_positions * head_dim));
  float* row = table.data();
  for (std::int64_t position = 0; position < n_positions; ++position, row += head_dim)
    for (std::size_t i = 0; i < frequencies.size(); ++i) {
      const double angle = static_cast<double>(position) * frequencies[i];
      row[i] = static_cast<float>(std::cos(angle) * factor);
      row[i + frequencies.size()] = static_cast<float>(std::sin(angle) * factor);
    }
  return table;
}

}  // namespace voronoi::model
