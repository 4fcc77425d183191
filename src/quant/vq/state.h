// What passes over a problem change, and what a layer is stored from in the end.
#pragma once

#include "backend/tensor.h"
#include "quant/vq/codebooks.h"
#include "quant/vq/layout.h"
#include "quant/vq/problem.h"

namespace voronoi::quant {

/// Columns and books are the same on every member of the team, codes those of this member's rows.
struct VqState {
  ColumnScale columns;
  Codebooks books;
  backend::Array<std::int32_t> codes, residual_codes;  ///< [in, code_stride] of each piece; the latter empty without kr
  backend::Array<float>
      quantized;  ///< [in, width] of each piece: what a pass has decoded them to, exactly as decode() does

  kernels::VqCodes code_view() { return {codes.data(), residual_codes.data()}; }
  /// A copy to come back to, without `quantized`.
  VqState keep() const;
  /// Back to what was kept; `quantized` is due again (decode_state).
  void restore(VqState kept);
};

/// Codes and quantized values zero, no books.
VqState make_state(backend::Context& context, const VqRows& rows, ColumnScale columns);

/// Makes `quantized` from the rest.
void decode_state(const VqProblem& problem, VqState& state);

/// lost = W - Q, [in, width].
void subtract_quantized(const VqProblem& problem, const VqState& state, backend::Array<float>& lost);

/// tr((W-Q) H (W-Q)^T) for the quantized values at hand: with H undamped, as layers are told of, damped, as passes see
/// it, and of the held-out tokens (0 where there are none). Collective.
struct VqErrors {
  double undamped = 0, damped = 0, held_out = 0;
};
/// `damped` as the caller knows it: a product with H less.
VqErrors errors_of(const VqProblem& problem, const VqState& state, double damped);
/// The first of them alone, with one product. Collective.
double undamped_error(const VqProblem& problem, const VqState& state);

}  // namespace voronoi::quant
