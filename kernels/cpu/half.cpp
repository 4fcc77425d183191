// Products whose operands are rounded to 16 bits: what tensor cores compute, as the oracle of the CUDA backend.
#include "kernels/cpu/half.h"

#include <algorithm>

#include "core/error.h"
#include "core/types.h"
#include "kernels/cpu/bf16.h"
#include "kernels/cpu/gemm.h"
#include "kernels/cpu/scratch.h"

namespace voronoi::kernels {
namespace {

void require_half(core::DType dtype) {
  VORONOI_REQUIRE(dtype == core::DType::f16 || dtype == core::DType::bf16, "a 16-bit float type is wanted");
}

/// out [rows, columns] contiguous: in, element by element, through `convert`.
template <class From, class Convert>
void convert_rows(const Exec& exec, std::int64_t rows, std::int64_t columns, const From* in, std::int64_t ld,
                  float* out, const Convert& convert) {
  exec.pool->parallel_for(rows, [&](std::int64_t row) {
    std::transform(in + row * ld, in + row * ld + columns, out + row * columns, convert);
  });
}

/// C = A op(W) + beta C.
void gemm_16(const Exec& exec, bool transpose_w, std::int64_t m, std::int64_t n, std::int64_t k, const float* a,
             std::int64_t lda, core::DType dtype, const std::uint16_t* w, std::int64_t ldw, float beta, float* c,
             std::int64_t ldc) {
  VORONOI_REQUIRE(m >= 0 && n >= 0 && k >= 0, "a matrix extent is negative");
  require_half(dtype);
  if (dtype == core::DType::bf16)
    return cpu_bf16_product(exec, {m, n, k, {a, nullptr, lda, true}, {nullptr, w, ldw, transpose_w}, beta, c, ldc});
  const std::int64_t w_rows = transpose_w ? n : k, w_columns = transpose_w ? k : n;
  Scratch<float> left(m * k), right(n * k);
  convert_rows(exec, m, k, a, lda, left.data(), [dtype](float value) { return core::round_to(dtype, value); });
  convert_rows(exec, w_rows, w_columns, w, ldw, right.data(),
               [dtype](std::uint16_t bits) { return core::from_bits16(dtype, bits); });
  cpu_gemm(exec, MatrixProduct<float>{false, transpose_w, m, n, k, 1.0F, left.data(), k, right.data(), w_columns, beta,
                                      c, ldc});
}

}  // namespace

void cpu_gemm_16(const Exec& exec, std::int64_t m, std::int64_t n, std::int64_t k, const float* a, std::int64_t lda,
                 core::DType dtype, const std::uint16_t* w, std::int64_t ldw, float beta, float* c, std::int64_t ldc) {
  gemm_16(exec, true, m, n, k, a, lda, dtype, w, ldw, beta, c, ldc);
}

void cpu_gemm_16_back(const Exec& exec, std::int64_t m, std::int64_t n, std::int64_t k, const float* a,
                      std::int64_t lda, core::DType dtype, const std::uint16_t* w, std::int64_t ldw, float beta,
                      float* c, std::int64_t ldc) {
  gemm_16(exec, false, m, n, k, a, lda, dtype, w, ldw, beta, c, ldc);
}

void cpu_gemm_16_outer(const Exec& exec, std::int64_t m, std::int64_t n, std::int64_t k, const float* a,
                       std::int64_t lda, const float* b, std::int64_t ldb, core::DType dtype, float* c,
                       std::int64_t ldc) {
  VORONOI_REQUIRE(m >= 0 && n >= 0 && k >= 0, "a matrix extent is negative");
  require_half(dtype);
  if (dtype == core::DType::bf16)
    return cpu_bf16_product(exec, {m, n, k, {a, nullptr, lda, false}, {b, nullptr, ldb, false}, 0.0F, c, ldc});
  Scratch<float> left(k * m), right(k * n);
  const auto rounded = [dtype](float value) { return core::round_to(dtype, value); };
  convert_rows(exec, k, m, a, lda, left.data(), rounded);
  convert_rows(exec, k, n, b, ldb, right.data(), rounded);
  cpu_gemm(exec, MatrixProduct<float>{true, false, m, n, k, 1.0F, left.data(), m, right.data(), n, 0.0F, c, ldc});
}

void cpu_round_16(const Exec& exec, std::int64_t n, const float* x, core::DType dtype, std::uint16_t* bits) {
  require_half(dtype);
  constexpr std::int64_t kPiece = 1 << 14;
  exec.pool->parallel_for(core::ceil_div(n, kPiece), [&](std::int64_t piece) {
    const float *first = x + piece * kPiece, *last = x + std::min(n, (piece + 1) * kPiece);
    // One conversion a loop, as the compiler makes vectors of it.
    if (dtype == core::DType::bf16)
      std::transform(first, last, bits + piece * kPiece, core::float_to_bfloat);
    else
      std::transform(first, last, bits + piece * kPiece, core::float_to_half);
  });
}

void cpu_gram_accumulate_rounded(const Exec& exec, std::int64_t n_rows, std::int64_t n, const float* x,
                                 std::int64_t ldx, core::DType dtype, double* sum) {
  if (dtype == core::DType::f32) return cpu_gram_accumulate(exec, n_rows, n, x, ldx, sum);
  require_half(dtype);
  if (dtype == core::DType::bf16) return cpu_bf16_gram(exec, n_rows, n, x, ldx, sum);
  Scratch<float> rounded(n_rows * n);
  convert_rows(exec, n_rows, n, x, ldx, rounded.data(), [dtype](float value) { return core::round_to(dtype, value); });
  cpu_gram_accumulate(exec, n_rows, n, rounded.data(), n, sum);
}

}  // namespace voronoi::kernels
