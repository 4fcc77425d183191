// QuIP# (Tseng, Chee, Sun, Kuleshov, De Sa: QuIP#: Even Better LLM Quantization with Hadamard Incoherence and Lattice
// Codebooks, ICML 2024, arXiv 2402.04396) without its fine-tuning: both sides of a linear turned by Hadamard matrices
// and random signs, one scale, lattice codes with error feedback and sweeps.
#pragma once

#include "quant/method.h"

namespace voronoi::quant {

const Method& quip_sharp_method();

struct QuipSharpParameters {
  int sweeps = 10;
  double scale = 0;  ///< 0: codebook_scale of the bits
};

/// The root mean square of the turned weights, in units of the codebook.
double codebook_scale(int bits);

}  // namespace voronoi::quant
