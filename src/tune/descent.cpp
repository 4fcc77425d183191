#include "tune/descent.h"

#include <cmath>

#include "core/error.h"
#include "core/log.h"

namespace voronoi::tune {
namespace {

bool is_due(const DescentPlan& plan, const DescentState& state) {
  if (state.looked_at == state.step) return false;
  return state.step % plan.look_every == 0 || state.step == plan.n_steps;
}

/// The same on every rank, since the losses are.
void fall_back(const Descent& calls, DescentState& state, double loss) {
  ++state.fallbacks;
  core::log_warning(
      "tuning: the loss ran away ({:g} in step {}, {:g} held out before the first): back to the best "
      "values, of step {}, with half the rate",
      loss, state.step, state.first_loss, state.best_step);
  state.values = state.best;
  state.adam = {};
  calls.went_back();
}

}  // namespace

std::string_view name_of(DescentEnd end) {
  switch (end) {
    case DescentEnd::finished:
      return "finished";
    case DescentEnd::no_gain:
      return "no gain";
    case DescentEnd::diverged:
      return "diverged";
    case DescentEnd::stopped:
      return "stopped";
  }
  throw core::InternalError("end of a descent");
}

DescentEnd descend(core::ThreadPool& pool, std::span<const Segment> segments, const DescentPlan& plan,
                   const Descent& calls, DescentState& state) {
  const auto rate = [&] {
    return plan.learning_rate * schedule(state.step, plan.n_steps) * std::exp2(-static_cast<double>(state.fallbacks));
  };
  const auto look = [&] {
    std::vector<float> rounded = calls.rounded(state.values);
    const double loss = calls.held_out(rounded);
    if (state.looked_at < 0) {
      if (!std::isfinite(loss))
        throw core::NumericError(
            "tuning: the loss of the held-out text is not finite before the first step; the "
            "quantized model gives no usable numbers, quantize it with more bits");
      state.first_loss = loss;
    }
    calls.point(
        {state.step, state.n_summed > 0 ? state.loss_sum / static_cast<double>(state.n_summed) : 0, loss, rate()});
    state.loss_sum = 0;
    state.n_summed = 0;
    state.looked_at = state.step;
    if (loss < state.best_loss) {
      state.best_loss = loss;
      state.best_step = state.step;
      state.best = std::move(rounded);
      calls.best_found();
      state.without_gain = 0;
    } else {
      ++state.without_gain;
    }
    return loss;
  };
  const auto runs_away = [&](double loss) {
    return !std::isfinite(loss) || (state.first_loss > 0 && loss > kRunaway * state.first_loss);
  };
  for (;;) {
    if (is_due(plan, state)) {
      const double loss = look();
      if (runs_away(loss)) fall_back(calls, state, loss);
      calls.keep(state);
    }
    if (state.fallbacks > kMostFallbacks) return DescentEnd::diverged;
    if (state.without_gain >= kPatience) return DescentEnd::no_gain;
    if (state.step == plan.n_steps) return DescentEnd::finished;
    if (calls.stop()) {
      calls.keep(state);
      return DescentEnd::stopped;
    }
    std::vector<float> gradient;
    const double loss = calls.differentiate(state.step, state.values, gradient);
    if (runs_away(loss)) {
      fall_back(calls, state, loss);
    } else {
      tune::step(pool, segments, rate(), gradient, state.adam, state.values);
      calls.follow(state.values);
      state.loss_sum += loss;
      ++state.n_summed;
    }
    ++state.step;
    calls.stepped(state.step, loss);
    if (state.step % plan.keep_every == 0 && !is_due(plan, state)) calls.keep(state);
  }
}

}  // namespace voronoi::tune
