// Adam over a vector of parameters, and the rates at which its kinds of numbers move.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "core/thread_pool.h"
#include "tune/parameters.h"

namespace voronoi::tune {

/// Moments of the gradient (Kingma and Ba 2015), with beta 0.9 and 0.95.
struct Adam {
  std::vector<float> first, second;  ///< empty before the first step
  std::int64_t steps = 0;
};

/// What share of its unit a number may move in a step, by its kind, before the schedule is applied. `learning_rate`: of
/// a centroid, or of a weight.
double relative_rate(Kind kind, double learning_rate);

/// A learning rate that needs nobody to watch it, in units of a codebook's root mean square: 4e-3 at 2 bits a weight
/// (docs/methods.md: of 2e-3, 4e-3 and 8e-3 the best on SmolLM2-135M), halved with each further bit, whose cells are
/// half as wide, and falling with the root of the width.
double default_learning_rate(double nominal_bits, std::int64_t hidden_size);

/// Factor on the learning rate in step `step` of `n_steps`: up over the first 5 %, then down by a half cosine to 5 %.
double schedule(std::int64_t step, std::int64_t n_steps);

/// One step down `gradient`; learning_rate: with the schedule applied. Each number's result depends on its own history
/// alone. All vectors have one size; the state is made when it is empty.
void step(core::ThreadPool& pool, std::span<const Segment> segments, double learning_rate,
          std::span<const float> gradient, Adam& state, std::span<float> values);

}  // namespace voronoi::tune
