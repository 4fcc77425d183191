// Trellis-coded quantization (QTIP: Tseng, Sun, Hou, De Sa: QTIP: Quantization with Trellises and Incoherence
// Processing, NeurIPS 2024, arXiv 2406.11235) without its fine-tuning: both sides of a linear turned by Hadamard
// matrices and random signs, one scale, strings of a computed code along the rows of each column, with error feedback
// and sweeps.
#pragma once

#include <string>

#include "quant/method.h"

namespace voronoi::quant {

const Method& trellis_method();

struct TrellisParameters {
  int state_bits = 16;
  int sweeps = 1;
  std::string code = "mul1";
  double scale = 0;  ///< 0: trellis_scale of the bits
};

/// The root mean square of the turned weights, in units of the code's own.
double trellis_scale(int bits);

}  // namespace voronoi::quant
