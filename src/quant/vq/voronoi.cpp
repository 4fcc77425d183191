#include "quant/vq/voronoi.h"

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

/// What a round may change, kept to take it back.
struct Snapshot {
  explicit Snapshot(const VqRun& run)
      : books(run.books),
        columns(run.columns),
        codes(run.rows.codes.clone()),
        residual_codes(run.rows.residual_codes.clone()) {}
  void restore(VqRun& run) {
    run.books = std::move(books);
    run.columns = std::move(columns);
    run.rows.codes = std::move(codes);
    run.rows.residual_codes = std::move(residual_codes);
  }
  Codebooks books;
  ColumnScale columns;
  backend::Array<std::int32_t> codes, residual_codes;
};

}  // namespace

QuantResult run_voronoi(backend::Context& context, core::Team& team, const QuantInput& input,
                        const QuantParameters& parameters) {
  const auto& own = parameters.get<VoronoiParameters>();
  VqRun run(context, team, input, parameters);
  run.quantize(own.candidates);
  Refiner refiner(run);
  double error = refiner.update();
  int steps = 0, sweeps = 0, rounds = 0;
  const auto relative = [&](double value) { return run.weight_norm > 0 ? value / run.weight_norm : 0.0; };
  for (int round = 1; round <= own.rounds; ++round) {
    Snapshot before(run);
    steps += refiner.fit_codebooks(kFitSteps);
    refiner.update();
    steps += refiner.fit_columns(kFitSteps);
    double now = refiner.update();
    for (int sweep = 0; sweep < kSweeps; ++sweep, ++sweeps) {
      const double swept = refiner.sweep(own.candidates), gain = now - swept;
      now = swept;
      if (gain < kSweepTolerance * swept) break;
    }
    now = refiner.update();
    // Below zero it is no error: in an indefinite metric a fit runs away.
    if (!(now >= 0 && now < error)) {
      before.restore(run);
      error = refiner.update();
      break;
    }
    error = now;
    rounds = round;
    run.statistics["error_round_" + std::to_string(round)] = relative(error);
  }
  run.statistics["rounds_kept"] = rounds;
  run.statistics["fit_steps"] = steps;
  run.statistics["sweeps"] = sweeps;
  return run.finish(error);
}

}  // namespace voronoi::quant
