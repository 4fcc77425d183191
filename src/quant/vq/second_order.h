// The column loop of VPTQ (channel-independent second-order optimisation): GPTQ's error feedback with a column rounded
// by vector quantization. U is the upper factor of the inverse Hessian in processing order, H^-1 = U^T U. Column n of
// weight W becomes Q_n, and what is lost, e_n = (W_n - Q_n) / U_nn, is paid back by the columns that follow: W_j -=
// U_nj e_n for j > n. The loss of the whole is then sum_n |e_n|^2, so each column may be rounded to its nearest
// vectors. All in the operator's own units: the scale of a column is divided out for the search alone, which is the
// same as working with D H D on scaled weights (U D^-1 is its factor).
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "backend/device.h"
#include "quant/vq/codebooks.h"
#include "quant/vq/layout.h"

namespace voronoi::quant {

struct ColumnLoopOptions {
  std::int64_t candidates = 1;  ///< see ColumnSearch
  bool feedback = true;         ///< false: each column to its nearest vectors
  bool keep_residual = false;   ///< fill Piece::residual
  bool padding_counts = false;  ///< zeros past the rows take part in distances, as in the reference: to compare with it
};

/// Quantizes the columns of all pieces of this member in order: fills codes, residual codes and quantized. factor: U
/// [in, in].
void run_column_loop(backend::Context& context, const VqGeometry& geometry, std::vector<Piece>& pieces,
                     std::span<const float> factor, const Codebooks& books, const ColumnScale& columns,
                     const ColumnLoopOptions& options);

}  // namespace voronoi::quant
