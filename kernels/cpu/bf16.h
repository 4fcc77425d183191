// Products of bfloat16 values with sums in fp32, in the order of a tile unit: Intel's AMX where the machine has it, and
// the same bits by vectors anywhere with fused multiply-adds.
//
// The order (Intel SDM, TDPBF16PS; the hardware was held against it): k in steps of 32, zeros behind its end. Within a
// step the even k are one chain of fused multiply-adds from 0 and the odd k another; their sum is added to the element,
// which began at 0. Every operation rounds to nearest even, takes a subnormal operand for 0 and gives 0 for a result
// that is subnormal once it is rounded; zeros keep their sign. So an element depends on its row and its column alone.
#pragma once

#include <cstdint>

#include "core/types.h"
#include "kernels/cpu/gemm.h"
#include "kernels/exec.h"

namespace voronoi::kernels {

/// What computes the products; all give the same bits.
enum class Bf16Unit {
  tiles,    ///< AMX
  vectors,  ///< fused multiply-adds, the processor told to flush subnormals (x86)
  portable  ///< the same, subnormals flushed by comparisons: for any processor
};

/// Whether this processor and system have it.
bool has_bf16_unit(Bf16Unit unit);
/// The quickest there is, or the one that the environment's VORONOI_BF16_UNIT names (tiles, vectors, portable). Throws
/// ConfigError for another name or one that is not there.
Bf16Unit bf16_unit();

/// A matrix [extent, k]: element (i, p) at i * ld + p, or at p * ld + i where k is not along the rows; fp32 values are
/// rounded to bfloat16, or they are the bits of bfloat16 values.
struct Bf16Operand {
  const float* wide = nullptr;
  const std::uint16_t* bits = nullptr;  ///< instead
  std::int64_t ld = 0;
  bool along_k = true;
};

/// C [m, n] = A B^T + beta C for A [m, k] and B [n, k]; beta is 0 or 1. The product is summed from 0 and added to C
/// once.
struct Bf16Product {
  std::int64_t m, n, k;
  Bf16Operand a, b;
  float beta;
  float* c;
  std::int64_t ldc;
};

void cpu_bf16_product(const Exec& exec, const Bf16Product& product, Bf16Unit unit = bf16_unit());

/// LinalgKernels::gram_accumulate for bf16: kCpuGramRows rows at a time are summed as above, their sums added in fp64.
void cpu_bf16_gram(const Exec& exec, std::int64_t n_rows, std::int64_t n, const float* x, std::int64_t ldx, double* sum,
                   Bf16Unit unit = bf16_unit());

}  // namespace voronoi::kernels
