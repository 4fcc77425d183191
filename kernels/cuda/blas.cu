// cuBLAS and cuSOLVER work on columns: a row-major matrix is the transpose of theirs, so C = A B is asked for as
// C^T = B^T A^T, and a lower triangle is an upper one.
#include <cublas_v2.h>
#include <cusolverDn.h>

#include <string>
#include <vector>

#include "kernels/cuda/blas.h"

namespace voronoi::kernels::gpu {
namespace {

// NVIDIA recommends 32 MiB for Hopper. Given once and used on one stream, it makes results reproducible.
constexpr std::int64_t kWorkspaceBytes = std::int64_t{64} << 20;

[[noreturn]] void refuse(const std::string& reason, const char* call, const char* file, int line) {
  throw core::DeviceError(std::string(call) + ": " + reason + " (" + file + ":" + std::to_string(line) + ")");
}

cublasOperation_t operation(bool transpose) { return transpose ? CUBLAS_OP_T : CUBLAS_OP_N; }

}  // namespace

void check(cublasStatus_t status, const char* call, const char* file, int line) {
  if (status != CUBLAS_STATUS_SUCCESS) refuse(cublasGetStatusString(status), call, file, line);
}

void check(cusolverStatus_t status, const char* call, const char* file, int line) {
  if (status != CUSOLVER_STATUS_SUCCESS)
    refuse("cuSOLVER status " + std::to_string(static_cast<int>(status)), call, file, line);
}

struct Blas::Handles {
  Native& native;
  cublasHandle_t blas = nullptr;
  cusolverDnHandle_t solver = nullptr;
  cusolverDnParams_t parameters = nullptr;
  Scratch<char> workspace;
  Scratch<int> info;

  explicit Handles(Native& open) : native(open), workspace(open, kWorkspaceBytes), info(open, 1) {}
  ~Handles() {
    if (parameters != nullptr) cusolverDnDestroyParams(parameters);
    if (solver != nullptr) cusolverDnDestroy(solver);
    if (blas != nullptr) cublasDestroy(blas);
  }

  template <class Scalar>
  void multiply(bool transpose_a, bool transpose_b, std::int64_t m, std::int64_t n, std::int64_t k, Scalar alpha,
                const void* a, std::int64_t lda, const void* b, std::int64_t ldb, Scalar beta, void* c,
                std::int64_t ldc, cudaDataType_t operands, cudaDataType_t result, cublasComputeType_t arithmetic) {
    VORONOI_CUDA_CHECK(cublasGemmEx_64(blas, operation(transpose_b), operation(transpose_a), n, m, k, &alpha, b,
                                       operands, ldb, a, operands, lda, &beta, c, result, ldc, arithmetic,
                                       CUBLAS_GEMM_DEFAULT));
  }
  template <class T>
  void multiply(const MatrixProduct<T>& p, cudaDataType_t type, cublasComputeType_t arithmetic) {
    multiply(p.transpose_a, p.transpose_b, p.m, p.n, p.k, p.alpha, p.a, p.lda, p.b, p.ldb, p.beta, p.c, p.ldc, type,
             type, arithmetic);
  }

  std::int64_t read_info() {
    int value = 0;
    copy_out(native, info.data(), sizeof value, &value);
    VORONOI_REQUIRE(value >= 0, "cuSOLVER found argument " + std::to_string(-value) + " wrong");
    return value;
  }
};

Blas::Blas(Native& native) : handles_(std::make_unique<Handles>(native)) {
  Handles& h = *handles_;
  VORONOI_CUDA_CHECK(cublasCreate(&h.blas));
  VORONOI_CUDA_CHECK(cublasSetStream(h.blas, native.stream));
  VORONOI_CUDA_CHECK(cublasSetWorkspace(h.blas, h.workspace.data(), static_cast<std::size_t>(kWorkspaceBytes)));
  VORONOI_CUDA_CHECK(cublasSetAtomicsMode(h.blas, CUBLAS_ATOMICS_NOT_ALLOWED));
  VORONOI_CUDA_CHECK(cublasSetMathMode(
      h.blas, static_cast<cublasMath_t>(CUBLAS_DEFAULT_MATH | CUBLAS_MATH_DISALLOW_REDUCED_PRECISION_REDUCTION)));
  VORONOI_CUDA_CHECK(cusolverDnCreate(&h.solver));
  VORONOI_CUDA_CHECK(cusolverDnSetStream(h.solver, native.stream));
  VORONOI_CUDA_CHECK(cusolverDnSetDeterministicMode(h.solver, CUSOLVER_DETERMINISTIC_RESULTS));
  VORONOI_CUDA_CHECK(cusolverDnCreateParams(&h.parameters));
}

Blas::~Blas() = default;

void Blas::gemm(const MatrixProduct<float>& product) {
  handles_->multiply(product, CUDA_R_32F, CUBLAS_COMPUTE_32F_PEDANTIC);
}

void Blas::gemm(const MatrixProduct<double>& product) { handles_->multiply(product, CUDA_R_64F, CUBLAS_COMPUTE_64F); }

void Blas::gemm_tf32(const MatrixProduct<float>& product) {
  handles_->multiply(product, CUDA_R_32F, CUBLAS_COMPUTE_32F_FAST_TF32);
}

void Blas::gemm_16(core::DType dtype, bool transpose_a, bool transpose_b, std::int64_t m, std::int64_t n,
                   std::int64_t k, const std::uint16_t* a, std::int64_t lda, const std::uint16_t* b, std::int64_t ldb,
                   float beta, float* c, std::int64_t ldc) {
  VORONOI_REQUIRE(dtype == core::DType::f16 || dtype == core::DType::bf16, "a 16-bit float type is wanted");
  handles_->multiply(transpose_a, transpose_b, m, n, k, 1.0F, a, lda, b, ldb, beta, c, ldc,
                     dtype == core::DType::f16 ? CUDA_R_16F : CUDA_R_16BF, CUDA_R_32F, CUBLAS_COMPUTE_32F);
}

// Memory of n = 53,248, in place: the matrix 22.7 GB, plus the workspace that cuSOLVER asks for here, released before
// the call returns. Should it want another matrix' worth, 45.4 GB of 80 are taken, and the caller's fp32 copies (11.3
// GB each) still fit.

std::int64_t Blas::cholesky_lower(std::int64_t n, double* a, std::int64_t lda) {
  Handles& h = *handles_;
  std::size_t device_bytes = 0, host_bytes = 0;
  VORONOI_CUDA_CHECK(cusolverDnXpotrf_bufferSize(h.solver, h.parameters, CUBLAS_FILL_MODE_UPPER, n, CUDA_R_64F, a, lda,
                                                 CUDA_R_64F, &device_bytes, &host_bytes));
  const Scratch<char> device(h.native, static_cast<std::int64_t>(device_bytes));
  std::vector<char> host(host_bytes);
  VORONOI_CUDA_CHECK(cusolverDnXpotrf(h.solver, h.parameters, CUBLAS_FILL_MODE_UPPER, n, CUDA_R_64F, a, lda, CUDA_R_64F,
                                      device.data(), device_bytes, host.data(), host_bytes, h.info.data()));
  return h.read_info();
}

std::int64_t Blas::invert_lower(std::int64_t n, double* l, std::int64_t ldl) {
  Handles& h = *handles_;
  std::size_t device_bytes = 0, host_bytes = 0;
  VORONOI_CUDA_CHECK(cusolverDnXtrtri_bufferSize(h.solver, CUBLAS_FILL_MODE_UPPER, CUBLAS_DIAG_NON_UNIT, n, CUDA_R_64F,
                                                 l, ldl, &device_bytes, &host_bytes));
  const Scratch<char> device(h.native, static_cast<std::int64_t>(device_bytes));
  std::vector<char> host(host_bytes);
  VORONOI_CUDA_CHECK(cusolverDnXtrtri(h.solver, CUBLAS_FILL_MODE_UPPER, CUBLAS_DIAG_NON_UNIT, n, CUDA_R_64F, l, ldl,
                                      device.data(), device_bytes, host.data(), host_bytes, h.info.data()));
  return h.read_info();
}

}  // namespace voronoi::kernels::gpu
