// A weight matrix on the device in the type that its products take, and on the way there.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "backend/tensor.h"
#include "core/types.h"
#include "format/format.h"

namespace voronoi::model {

/// A linear's weight as it is stored packed, sound, in host memory; null: it is not.
using PackedTensor = std::shared_ptr<const format::Encoding>;

/// A tensor in host memory: fp32, bits of a 16-bit type, or packed.
struct HostTensor {
  core::DType dtype = core::DType::f32;
  std::vector<float> wide;            ///< f32
  std::vector<std::uint16_t> narrow;  ///< f16, bf16
  PackedTensor packed;                ///< instead of both; dtype is that of its products
};

/// Values rounded to `dtype` (f32: as they are; f16, bf16).
HostTensor host_tensor(core::DType dtype, std::vector<float> values);

/// A matrix [out, in], row-major, in device memory. f32: products in fp32. f16, bf16: the other operand is rounded to
/// the type too, products are exact and summed in fp32. Packed: as many rows as its format serves are multiplied
/// straight from the codes, in fp32; for more it is decoded first and then as above.
struct LinearWeight {
  core::DType dtype = core::DType::f32;
  backend::Array<float> wide;                    ///< f32
  backend::Array<std::uint16_t> narrow;          ///< f16, bf16
  std::unique_ptr<format::PackedMatrix> packed;  ///< instead of both

  bool empty() const { return wide.empty() && narrow.empty() && !packed; }
};

/// A packed matrix decoded on the device into `dtype`.
LinearWeight decoded(backend::Context& context, const format::PackedMatrix& packed, core::DType dtype);

/// out [n_rows, n_out] = x [n_rows, n_in] W^T, added to out when `accumulate`; all contiguous.
void multiply(backend::Context& context, const LinearWeight& weight, std::int64_t n_rows, std::int64_t n_out,
              std::int64_t n_in, const float* x, bool accumulate, float* out);

/// dx [n_rows, n_in] = dy [n_rows, n_out] W, added to dx when `accumulate`: what multiply() means for its input. A bf16
/// weight has dy rounded to it too; otherwise in fp32, since f16 has not the range of derivatives. A packed matrix is
/// decoded to fp32 first.
void multiply_transposed(backend::Context& context, const LinearWeight& weight, std::int64_t n_rows, std::int64_t n_out,
                         std::int64_t n_in, const float* dy, bool accumulate, float* dx);

/// The first n_rows rows of a matrix that is not packed, in fp32.
backend::Array<float> widened_rows(backend::Context& context, const LinearWeight& weight, std::int64_t n_rows,
                                   std::int64_t n_in);

/// out [n_ids, n_in] = rows `ids` (device memory) of the matrix.
void gather_rows(backend::Context& context, const LinearWeight& weight, const std::int32_t* ids, std::int64_t n_ids,
                 std::int64_t n_in, float* out);

}  // namespace voronoi::model
