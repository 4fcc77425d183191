// The numbers of additive codes fitted to tr((W - Q) H (W - Q)^T) with the codes fixed.
#pragma once

#include <cstdint>
#include <vector>

#include "quant/aqlm/additive_rows.h"

namespace voronoi::quant {

/// Least squares: the codebooks by conjugate gradients from what they are, with the Hessian's diagonal as
/// preconditioner, then each row's scale in closed form, both as they will be stored. rows.matrix() and product() are
/// those of the numbers as they are, `losses` theirs; what comes back is true of both afterwards. The whole loss does
/// not rise: numbers that would raise it are dropped. Collective. steps: products that were made for the codebooks.
std::vector<double> fit_numbers(AdditiveRows& rows, std::vector<double> losses, std::int64_t& steps);

/// The published rule: so many steps of Adam (rate 1e-4, betas 0 and 0.95, AMSGrad) on codebooks and scales, from
/// whichever state it was left in. Numbers are not rounded.
class AdditiveDescent {
 public:
  explicit AdditiveDescent(const AdditiveRows& rows);
  /// rows.matrix() and product() are those of the numbers as they are, before and after; returns the losses after.
  /// Collective.
  std::vector<double> run(AdditiveRows& rows, int steps);

 private:
  struct Moments {
    std::vector<double> square, largest;
  };
  static void step(Moments& moments, const std::vector<double>& gradient, double share, std::vector<float>& values);

  int taken_ = 0;
  Moments books_, scale_;
};

}  // namespace voronoi::quant
