// A weight matrix on the device in the type that its products take, and on the way there.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "backend/tensor.h"
#include "core/types.h"

namespace voronoi::model {

/// A tensor in host memory: fp32, or bits of a 16-bit type.
struct HostTensor {
  core::DType dtype = core::DType::f32;
  std::vector<float> wide;            ///< f32
  std::vector<std::uint16_t> narrow;  ///< f16, bf16
};

/// Values rounded to `dtype` (f32: as they are; f16, bf16).
HostTensor host_tensor(core::DType dtype, std::vector<float> values);

/// A matrix [out, in], row-major, in device memory. f32: products in fp32. f16, bf16: the other operand is rounded to
/// the type too, products are exact and summed in fp32.
struct LinearWeight {
  core::DType dtype = core::DType::f32;
  backend::Array<float> wide;            ///< f32
  backend::Array<std::uint16_t> narrow;  ///< f16, bf16

  bool empty() const { return wide.empty() && narrow.empty(); }
};

/// out [n_rows, n_out] = x [n_rows, n_in] W^T, added to out when `accumulate`; all contiguous.
void multiply(backend::Context& context, const LinearWeight& weight, std::int64_t n_rows, std::int64_t n_out,
              std::int64_t n_in, const float* x, bool accumulate, float* out);

/// out [n_ids, n_in] = rows `ids` (device memory) of the matrix.
void gather_rows(backend::Context& context, const LinearWeight& weight, const std::int32_t* ids, std::int64_t n_ids,
                 std::int64_t n_in, float* out);

}  // namespace voronoi::model
