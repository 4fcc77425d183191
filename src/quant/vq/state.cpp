#include "quant/vq/state.h"

#include <algorithm>
#include <utility>

namespace voronoi::quant {

VqState VqState::keep() const { return {columns, books, codes.clone(), residual_codes.clone(), {}}; }

void VqState::restore(VqState kept) {
  kept.quantized = std::move(quantized);
  *this = std::move(kept);
}

VqState make_state(backend::Context& context, const VqRows& rows, ColumnScale columns) {
  VqState state;
  state.columns = std::move(columns);
  state.quantized = backend::Array<float>(context, rows.weight.size());
  state.quantized.zero();
  state.codes = backend::Array<std::int32_t>(context, rows.n_codes);
  state.codes.zero();
  const bool has_residual =
      std::any_of(rows.pieces.begin(), rows.pieces.end(), [](const VqPiece& piece) { return piece.slice.kr > 0; });
  if (has_residual) state.residual_codes = state.codes.clone();
  return state;
}

void decode_state(const VqProblem& problem, VqState& state) {
  const DeviceBooks books(problem.context, state.books, state.columns);
  for (const VqPiece& piece : problem.rows.pieces)
    problem.context.slice().decode(problem.context.exec(), piece.slice, books.view(), piece.codes(state.code_view()),
                                   piece.values(state.quantized.data()));
}

void subtract_quantized(const VqProblem& problem, const VqState& state, backend::Array<float>& lost) {
  problem.context.slice().subtract(problem.context.exec(), lost.size(), problem.rows.weight.data(),
                                   state.quantized.data(), lost.data());
}

VqErrors errors_of(const VqProblem& problem, const VqState& state, double damped) {
  backend::Array<float> lost(problem.context, problem.rows.weight.size());
  subtract_quantized(problem, state, lost);
  VqErrors errors{problem.undamped_norm(lost, damped), damped, 0};
  if (problem.has_held_out()) errors.held_out = problem.held_out_norm(lost);
  return errors;
}

double undamped_error(const VqProblem& problem, const VqState& state) {
  backend::Array<float> lost(problem.context, problem.rows.weight.size());
  subtract_quantized(problem, state, lost);
  return problem.undamped_norm(lost, problem.hessian_norm(lost));
}

}  // namespace voronoi::quant
