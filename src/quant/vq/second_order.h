// The column loop of VPTQ (channel-independent second-order optimisation): GPTQ's error feedback with a column rounded
// by vector quantization. U is the upper factor of the inverse Hessian in processing order, H^-1 = U^T U. Column n of
// weight W becomes Q_n, and what is lost, e_n = (W_n - Q_n) / U_nn, is paid back by the columns that follow: W_j -=
// U_nj e_n for j > n. The loss of the whole is then sum_n |e_n|^2, so each column may be rounded to its nearest
// vectors. All in the operator's own units: the scale of a column is divided out for the search alone, which is the
// same as working with D H D on scaled weights (U D^-1 is its factor).
#pragma once

#include <vector>

#include "backend/tensor.h"
#include "quant/vq/layout.h"
#include "quant/vq/state.h"

namespace voronoi::quant {

/// Quantizes the columns of this member's rows in order, with the state's books: fills its codes and quantized values.
/// factors: U [in, in] of each group of rows. keep_residual: returns what each column was when it was quantized less
/// its quantized value, [in, width]; else nothing.
backend::Array<float> run_column_loop(backend::Context& context, const VqRows& rows,
                                      const std::vector<const float*>& factors,
                                      const kernels::ColumnLoopOptions& options, bool keep_residual, VqState& state);

/// What a search for the codes of all columns, and spreading each column's error over those behind it, count as
/// (core/work_counts.h).
void count_search(const VqRows& rows, const Codebooks& books, std::int64_t candidates);
double spreading_flops(const VqRows& rows);

}  // namespace voronoi::quant
