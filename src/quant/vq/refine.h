// What the first passes leave: with the codes fixed, tr((W-Q) H (W-Q)^T) is a least-squares problem in the codebooks,
// and in the scales and biases of the columns; with those fixed, each column's codes can be chosen anew against all
// others (coordinate descent).
#pragma once

#include <cstdint>

#include "backend/tensor.h"
#include "quant/vq/problem.h"
#include "quant/vq/state.h"

namespace voronoi::quant {

/// Works on a state whose codes are chosen, and keeps what follows from it. Both must outlive it. All calls are
/// collective over the problem's team.
class Refiner {
 public:
  Refiner(const VqProblem& problem, VqState& state);

  /// Recomputes quantized values from codes and books, and the gradients; returns tr((W-Q) H (W-Q)^T). Due after each
  /// fit, before the next call.
  double update();
  /// Codebooks by conjugate gradients, rounded to the stored type; returns the steps taken, one product with H each.
  int fit_codebooks(int max_steps);
  /// Scale and bias of every column, likewise.
  int fit_columns(int max_steps);
  /// Every column's codes anew, for the target q_c + ((W-Q) H)_c / H_cc, in blocks of columns; a vector whose new codes
  /// are no nearer keeps the old ones, so the error never rises. Gradients are kept up to date; returns the error by
  /// them.
  double sweep(std::int64_t candidates);

 private:
  const VqProblem& problem_;
  VqState& state_;
  backend::Array<float> gradient_;  ///< H (W - Q), [in, width]
  backend::Array<float> work_;      ///< W - Q, likewise
  double error_ = 0;
};

}  // namespace voronoi::quant
