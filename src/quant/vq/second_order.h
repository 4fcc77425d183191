// The column loop of VPTQ (channel-independent second-order optimisation): GPTQ's error feedback with a column rounded
// by vector quantization. U is the upper factor of the inverse Hessian in processing order, H^-1 = U^T U. Column n of
// weight W becomes Q_n, and what is lost, e_n = (W_n - Q_n) / U_nn, is paid back by the columns that follow: W_j -=
// U_nj e_n for j > n. The loss of the whole is then sum_n |e_n|^2, so each column may be rounded to its nearest
// vectors. All in the operator's own units: the scale of a column is divided out for the search alone, which is the
// same as working with D H D on scaled weights (U D^-1 is its factor).
#pragma once

#include "backend/tensor.h"
#include "quant/vq/codebooks.h"
#include "quant/vq/layout.h"

namespace voronoi::quant {

struct ColumnLoopOptions {
  kernels::ColumnLoopOptions loop;
  bool keep_residual = false;  ///< fill VqRows::residual
};

/// Quantizes the columns of this member's rows in order: fills codes, residual codes and quantized. factor: U [in, in].
void run_column_loop(backend::Context& context, VqRows& rows, const backend::Array<float>& factor,
                     const Codebooks& books, const ColumnScale& columns, const ColumnLoopOptions& options);

}  // namespace voronoi::quant
