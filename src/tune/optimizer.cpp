#include "tune/optimizer.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "core/error.h"

namespace voronoi::tune {
namespace {

constexpr double kBeta1 = 0.9, kBeta2 = 0.95, kEpsilon = 1e-8;
/// Of what a centroid moves. In a model of 64 channels 4 times as much left the least divergence at 2 bits, twice
/// hardly more (docs/methods.md); wider ones are not measured.
constexpr double kFactorRate = 2;
constexpr double kWarmUp = 0.05, kLeast = 0.05;
/// Numbers of a segment that are one piece of work.
constexpr std::int64_t kPiece = 1 << 16;

struct Piece {
  std::int64_t first, last;
  float rate;
};

}  // namespace

double relative_rate(Kind kind, double learning_rate) {
  switch (kind) {
    case Kind::codebook:
    case Kind::bias:
    case Kind::weight:
      return learning_rate;
    case Kind::factor:
      return kFactorRate * learning_rate;
    case Kind::scale:
    case Kind::norm:
      return 0.5 * learning_rate;
  }
  throw core::InternalError("kind of a parameter");
}

double default_learning_rate(double nominal_bits, std::int64_t hidden_size) {
  return 4e-3 * std::exp2(2 - std::max(nominal_bits, 1.0)) *
         std::sqrt(576 / static_cast<double>(std::max<std::int64_t>(hidden_size, 576)));
}

double schedule(std::int64_t step, std::int64_t n_steps) {
  const double share = static_cast<double>(step) / static_cast<double>(n_steps);
  const double up =
      std::min(1.0, static_cast<double>(step + 1) / std::max(1.0, kWarmUp * static_cast<double>(n_steps)));
  return up * (kLeast + (1 - kLeast) * 0.5 * (1 + std::cos(std::numbers::pi * share)));
}

void step(core::ThreadPool& pool, std::span<const Segment> segments, double learning_rate,
          std::span<const float> gradient, Adam& state, std::span<float> values) {
  VORONOI_REQUIRE(gradient.size() == values.size(), "a derivative a parameter");
  if (state.first.empty()) {
    state.first.assign(values.size(), 0);
    state.second.assign(values.size(), 0);
  }
  VORONOI_REQUIRE(state.first.size() == values.size(), "moments of other parameters");
  ++state.steps;
  const auto n_steps = static_cast<double>(state.steps);
  const auto of_first = static_cast<float>(1 / (1 - std::pow(kBeta1, n_steps)));
  const auto of_second = static_cast<float>(1 / (1 - std::pow(kBeta2, n_steps)));
  std::vector<Piece> pieces;
  for (const Segment& segment : segments)
    for (std::int64_t first = segment.first; first < segment.first + segment.size; first += kPiece)
      pieces.push_back({first, std::min(first + kPiece, segment.first + segment.size),
                        static_cast<float>(relative_rate(segment.kind, learning_rate) * segment.unit)});
  pool.parallel_for(static_cast<std::int64_t>(pieces.size()), [&](std::int64_t p) {
    const Piece& piece = pieces[static_cast<std::size_t>(p)];
    constexpr auto kBeta1F = static_cast<float>(kBeta1), kBeta2F = static_cast<float>(kBeta2);
    for (auto i = static_cast<std::size_t>(piece.first); i < static_cast<std::size_t>(piece.last); ++i) {
      const float g = gradient[i];
      float& m = state.first[i];
      float& v = state.second[i];
      m = kBeta1F * m + (1 - kBeta1F) * g;
      v = kBeta2F * v + (1 - kBeta2F) * (g * g);
      values[i] -= piece.rate * (m * of_first) / (std::sqrt(v * of_second) + static_cast<float>(kEpsilon));
    }
  });
}

}  // namespace voronoi::tune
