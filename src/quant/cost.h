// What quantizing an operator costs: the scheduler's first guess, corrected later by what is measured.
#pragma once

#include <cstdint>

#include "quant/quantizer.h"

namespace voronoi::quant {

/// Floating-point operations of preparing one Hessian (fp64 factorization and inverse, counted at twice their number).
double hessian_flops(std::int64_t n);
/// Floating-point operations of one operator with this method, the Hessian's preparation not counted.
double operator_flops(const QuantParameters& parameters, std::int64_t out_features, std::int64_t in_features);

}  // namespace voronoi::quant
