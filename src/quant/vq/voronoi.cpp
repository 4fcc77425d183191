#include "quant/vq/voronoi.h"

#include <map>
#include <string>
#include <utility>

#include "quant/vq/refine.h"
#include "quant/vq/vptq.h"

namespace voronoi::quant {
namespace {

// Bounds on the work of a round; each part stops earlier when it gains next to nothing.
constexpr int kFitSteps = 12;
constexpr int kSweeps = 4;
constexpr double kSweepTolerance = 1e-3;

}  // namespace

QuantResult run_voronoi(backend::Context& context, core::Team& team, const QuantInput& input,
                        const QuantParameters& parameters) {
  const auto& own = parameters.get<VoronoiParameters>();
  const VqProblem problem(context, team, input, parameters);
  VqState state = make_state(context, problem.rows, column_scales(context, input));
  std::map<std::string, double> statistics;
  const std::string last_pass = vptq_passes(problem, own.candidates, state, statistics);
  Refiner refiner(problem, state);
  VqErrors errors = errors_of(problem, state, refiner.update());
  statistics[last_pass] = problem.relative(errors.undamped);
  int steps = 0, sweeps = 0, rounds = 0;
  for (int round = 1; round <= own.rounds; ++round) {
    VqState before = state.keep();
    steps += refiner.fit_codebooks(kFitSteps);
    refiner.update();
    steps += refiner.fit_columns(kFitSteps);
    double now = refiner.update();
    for (int sweep = 0; sweep < kSweeps; ++sweep, ++sweeps) {
      const double swept = refiner.sweep(own.candidates), gain = now - swept;
      now = swept;
      if (gain < kSweepTolerance * swept) break;
    }
    const VqErrors reached = errors_of(problem, state, refiner.update());
    // Below zero it is no error: in an indefinite metric a fit runs away. What only the tokens it was fitted to gain
    // from is no gain.
    const bool helps = reached.damped >= 0 && reached.damped < errors.damped &&
                       (!problem.has_held_out() || reached.held_out < errors.held_out);
    if (!helps) {
      state.restore(std::move(before));
      break;
    }
    errors = reached;
    rounds = round;
    statistics["error_round_" + std::to_string(round)] = problem.relative(errors.undamped);
  }
  statistics["rounds_kept"] = rounds;
  statistics["fit_steps"] = steps;
  statistics["sweeps"] = sweeps;
  return pack_result(problem, std::move(state), errors.undamped, std::move(statistics));
}

}  // namespace voronoi::quant
