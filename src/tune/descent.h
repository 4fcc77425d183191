// Descent that needs nobody to watch it: steps, looks at text that is held out, keeps the best, and falls back to it.
#pragma once

#include <cstdint>
#include <functional>
#include <limits>
#include <span>
#include <string_view>
#include <vector>

#include "core/thread_pool.h"
#include "tune/optimizer.h"
#include "tune/parameters.h"

namespace voronoi::tune {

/// Everything that a descent goes on from; the same on every rank.
struct DescentState {
  std::int64_t step = 0;      ///< done
  std::vector<float> values;  ///< of the parameters
  Adam adam;
  std::vector<float> best;  ///< the rounded parameters of the least loss on text that is held out
  double best_loss = std::numeric_limits<double>::infinity();
  std::int64_t best_step = 0;
  double first_loss = 0;          ///< held out, before the first step
  std::int64_t looked_at = -1;    ///< step after which the held-out text was looked at last
  std::int64_t without_gain = 0;  ///< looks in a row that found nothing better
  double loss_sum = 0;            ///< of the steps since then, and their number
  std::int64_t n_summed = 0;
  std::int64_t fallbacks = 0;  ///< times that the loss ran away; each halves the rate
};

/// What a look at the held-out text found.
struct DescentPoint {
  std::int64_t step = 0;
  double training_loss = 0;  ///< mean over the steps since the look before; 0 before the first step
  double held_out_loss = 0, learning_rate = 0;
};

enum class DescentEnd { finished, no_gain, diverged, stopped };
std::string_view name_of(DescentEnd end);  ///< for people and the journal

struct DescentPlan {
  std::int64_t n_steps = 0;
  std::int64_t look_every = 1;  ///< steps; besides before the first and after the last
  std::int64_t keep_every = 1;  ///< steps between two states that are kept, besides those of looks
  double learning_rate = 0;
};

/// Calls of what is tuned; each is collective.
struct Descent {
  /// Loss of the step's sequences at `values`, and its derivative.
  std::function<double(std::int64_t step, std::span<const float> values, std::vector<float>& gradient)> differentiate;
  /// Loss of the held-out sequences at rounded parameters.
  std::function<double(std::span<const float> rounded)> held_out;
  std::function<std::vector<float>(std::span<const float> values)> rounded;
  std::function<bool()> stop;                                   ///< agreed by all ranks; looked at before each step
  std::function<void(const DescentPoint&)> point;               ///< after each look
  std::function<void(const DescentState&)> keep;                ///< the state may be gone on from
  std::function<void(std::int64_t step, double loss)> stepped;  ///< after each step
  // What moves beside the numbers, and is kept and goes back with them: nothing, unless set.
  std::function<void(std::span<const float> values)> follow = [](std::span<const float>) {};  ///< after each move
  std::function<void()> best_found = [] {}, went_back = [] {};
};

/// Looks that find nothing better before the descent ends; fallbacks before it gives up; how much larger than the
/// first a loss may become before it counts as running away.
inline constexpr std::int64_t kPatience = 2, kMostFallbacks = 3;
inline constexpr double kRunaway = 3;

/// Goes on from `state`, whose values are set; empty moments and best: from the beginning. A loss that is not finite or
/// runs away takes it back to the best values, with half the rate. At the end state.best is what to keep.
DescentEnd descend(core::ThreadPool& pool, std::span<const Segment> segments, const DescentPlan& plan,
                   const Descent& calls, DescentState& state);

}  // namespace voronoi::tune
