// AFPQ (Zhang et al. 2023, AFPQ: Asymmetric Floating Point Quantization for LLMs): grids of normal-float or
// floating-point levels with a scale for the weights above 0 and another for those below, by itself, in the loop of
// GPTQ, or behind the scales and clips of AWQ. In the authors' program a call in which any group has weights of one
// sign alone returns its input unquantized; here such a group has one scale, and the other is 0.
#pragma once

#include <string>

#include "quant/method.h"

namespace voronoi::quant {

const Method& afpq_method();

struct AfpqParameters {
  std::string levels = "normal";  ///< format::LevelTable
  std::string with = "none";      ///< whose rounding the grids stand in
};

}  // namespace voronoi::quant
