// kernels/cuda/blas.h over the CPU kernels: stands for cuBLAS and cuSOLVER, whose arithmetic it meets up to rounding.
#include "kernels/cuda/blas.h"

#include <vector>

#include "core/thread_pool.h"
#include "kernels/cpu/gemm.h"
#include "kernels/kernels.h"
#include "tests/emulation/emulator.h"
#include "tests/emulation/memory.h"

namespace voronoi::kernels::gpu {

struct Blas::Handles {
  Native& native;
  core::ThreadPool pool{1};
  Exec exec{&pool, nullptr};
};

namespace {

template <class T>
void multiply(const Exec& exec, Native& native, const MatrixProduct<T>& p) {
  emulation::finish_pending(native.stream);
  const emulation::AccessWindow window;
  cpu_gemm(exec, p);
}

std::vector<float> widened(core::DType dtype, std::int64_t n_rows, std::int64_t n_columns, const std::uint16_t* values,
                           std::int64_t ld) {
  std::vector<float> wide(static_cast<std::size_t>(n_rows * n_columns));
  for (std::int64_t i = 0; i < n_rows; ++i)
    core::convert_to_f32(dtype, values + i * ld, n_columns, wide.data() + i * n_columns);
  return wide;
}

}  // namespace

Blas::Blas(Native& native) : handles_(new Handles{native}) {}
Blas::~Blas() = default;

void Blas::gemm(const MatrixProduct<float>& product) { multiply(handles_->exec, handles_->native, product); }
void Blas::gemm(const MatrixProduct<double>& product) { multiply(handles_->exec, handles_->native, product); }
void Blas::gemm_tf32(const MatrixProduct<float>& product) { multiply(handles_->exec, handles_->native, product); }

void Blas::gemm_16(core::DType dtype, bool transpose_a, bool transpose_b, std::int64_t m, std::int64_t n,
                   std::int64_t k, const std::uint16_t* a, std::int64_t lda, const std::uint16_t* b, std::int64_t ldb,
                   float beta, float* c, std::int64_t ldc) {
  emulation::finish_pending(handles_->native.stream);
  const emulation::AccessWindow window;
  const std::int64_t columns_a = transpose_a ? m : k, columns_b = transpose_b ? k : n;
  const std::vector<float> wide_a = widened(dtype, transpose_a ? k : m, columns_a, a, lda),
                           wide_b = widened(dtype, transpose_b ? n : k, columns_b, b, ldb);
  cpu_gemm(handles_->exec, MatrixProduct<float>{transpose_a, transpose_b, m, n, k, 1.0F, wide_a.data(), columns_a,
                                                wide_b.data(), columns_b, beta, c, ldc});
}

std::int64_t Blas::cholesky_lower(std::int64_t n, double* a, std::int64_t lda) {
  emulation::finish_pending(handles_->native.stream);
  const emulation::AccessWindow window;
  return cpu_linalg_kernels().cholesky_lower_f64(handles_->exec, n, a, lda);
}

std::int64_t Blas::invert_lower(std::int64_t n, double* l, std::int64_t ldl) {
  emulation::finish_pending(handles_->native.stream);
  const emulation::AccessWindow window;
  return cpu_linalg_kernels().invert_lower_f64(handles_->exec, n, l, ldl);
}

}  // namespace voronoi::kernels::gpu
