// The quantizer of BitDistiller (Du et al. 2024, BitDistiller: Unleashing the Potential of Sub-4-Bit LLMs via
// Self-Distillation): round to nearest on grids whose two ends are clipped apart from each other. Its training of the
// weights behind the codes is a phase of tuning, for all methods of uniform codes.
#pragma once

#include "quant/method.h"

namespace voronoi::quant {

const Method& bitdistiller_method();

/// The ends of a group's grid are tried at its largest and its least weight times 1, 0.95 .. 0.55, each with each.
inline constexpr int kClips = 10;
constexpr float clip_factor(int clip) { return 1.0F - static_cast<float>(clip) / 20.0F; }

}  // namespace voronoi::quant
