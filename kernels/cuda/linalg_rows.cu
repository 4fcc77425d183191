// Rows gathered and looked at. Bound by memory: a value is read once.
#include <memory>

#include "kernels/cuda/linalg_rows.h"
#include "kernels/cuda/rows.cuh"

namespace voronoi::kernels::gpu {
namespace {

struct Gather {
  const std::int32_t* ids;
  std::int64_t n;
  const float* x;
  float* out;
  __device__ void operator()(std::int64_t row, std::int64_t column) const {
    out[row * n + column] = x[ids[row] * n + column];
  }
};

template <core::DType kType>
struct Gather16 {
  const std::int32_t* ids;
  std::int64_t n;
  const std::uint16_t* x;
  float* out;
  __device__ void operator()(std::int64_t row, std::int64_t column) const {
    const std::uint16_t bits = x[ids[row] * n + column];
    out[row * n + column] = kType == core::DType::bf16 ? bf16_to_float(bits) : f16_to_float(bits);
  }
};

struct LookForLarge {
  std::int64_t n;
  const float* x;
  float largest;
  unsigned* unbounded;
  __device__ void operator()(std::int64_t row, std::int64_t column) const {
    if (!(fabsf(x[row * n + column]) <= largest)) atomic_or(unbounded + row, 1U);
  }
};

}  // namespace

void gather_rows_f32(const Exec& exec, const std::int32_t* ids, std::int64_t n_ids, std::int64_t n, const float* x,
                     float* out) {
  for_rows(exec, n_ids, n, Gather{ids, n, x, out});
}

void gather_rows_16(const Exec& exec, const std::int32_t* ids, std::int64_t n_ids, std::int64_t n, core::DType dtype,
                    const std::uint16_t* x, float* out) {
  if (dtype == core::DType::bf16)
    for_rows(exec, n_ids, n, Gather16<core::DType::bf16>{ids, n, x, out});
  else
    for_rows(exec, n_ids, n, Gather16<core::DType::f16>{ids, n, x, out});
}

void bounded_rows(const Exec& exec, std::int64_t n_rows, std::int64_t n, const float* x, float largest, bool* bounded) {
  if (n_rows == 0) return;
  Native& open = native(exec);
  const Scratch<unsigned> unbounded(open, n_rows);
  const std::int64_t bytes = n_rows * std::int64_t{sizeof(unsigned)};
  VORONOI_CUDA_CHECK(cudaMemsetAsync(unbounded.data(), 0, static_cast<std::size_t>(bytes), open.stream));
  for_rows(exec, n_rows, n, LookForLarge{n, x, largest, unbounded.data()});
  const auto flags = std::make_unique<unsigned[]>(static_cast<std::size_t>(n_rows));
  copy_out(open, unbounded.data(), bytes, flags.get());
  for (std::int64_t row = 0; row < n_rows; ++row) bounded[row] = flags[static_cast<std::size_t>(row)] == 0;
}

}  // namespace voronoi::kernels::gpu
