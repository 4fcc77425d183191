#include "model/linear_weight.h"

#include <algorithm>
#include <numeric>
#include <utility>
#include <vector>

#include "core/error.h"
#include "core/work_counts.h"

namespace voronoi::model {

HostTensor host_tensor(core::DType dtype, std::vector<float> values) {
  HostTensor tensor;
  tensor.dtype = dtype;
  if (dtype == core::DType::f32) {
    tensor.wide = std::move(values);
    return tensor;
  }
  VORONOI_REQUIRE(dtype == core::DType::f16 || dtype == core::DType::bf16, "a float type of at most 32 bits is wanted");
  tensor.narrow.resize(values.size());
  // One conversion a loop: a billion weights of a block pass here.
  if (dtype == core::DType::bf16)
    std::transform(values.begin(), values.end(), tensor.narrow.begin(), core::float_to_bfloat);
  else
    std::transform(values.begin(), values.end(), tensor.narrow.begin(), core::float_to_half);
  return tensor;
}

LinearWeight decoded(backend::Context& context, const format::PackedMatrix& packed, core::DType dtype) {
  const std::int64_t n = packed.out_features() * packed.in_features();
  LinearWeight weight;
  weight.dtype = dtype;
  if (dtype == core::DType::f32) {
    weight.wide = backend::Array<float>(context, n);
    packed.decode_f32(context, weight.wide.data());
  } else {
    VORONOI_REQUIRE(dtype == packed.dtype(), "a packed matrix is decoded into its own 16-bit type");
    weight.narrow = backend::Array<std::uint16_t>(context, n);
    packed.decode_16(context, weight.narrow.data());
  }
  return weight;
}

void multiply(backend::Context& context, const LinearWeight& weight, std::int64_t n_rows, std::int64_t n_out,
              std::int64_t n_in, const float* x, bool accumulate, float* out) {
  if (weight.packed) {
    if (n_rows <= weight.packed->max_tokens()) {
      core::count_product(n_rows, n_out, n_in);
      weight.packed->multiply(context, n_rows, x, accumulate, out);
    } else {
      multiply(context, decoded(context, *weight.packed, weight.dtype), n_rows, n_out, n_in, x, accumulate, out);
    }
    return;
  }
  core::count_product(n_rows, n_out, n_in);
  const float beta = accumulate ? 1.0F : 0.0F;
  if (weight.dtype == core::DType::f32)
    context.linalg().gemm_f32(context.exec(), false, true, n_rows, n_out, n_in, 1.0F, x, n_in, weight.wide.data(), n_in,
                              beta, out, n_out);
  else
    context.linalg().gemm_16(context.exec(), n_rows, n_out, n_in, x, n_in, weight.dtype, weight.narrow.data(), n_in,
                             beta, out, n_out);
}

void multiply_transposed(backend::Context& context, const LinearWeight& weight, std::int64_t n_rows, std::int64_t n_out,
                         std::int64_t n_in, const float* dy, bool accumulate, float* dx) {
  if (weight.packed)
    return multiply_transposed(context, decoded(context, *weight.packed, core::DType::f32), n_rows, n_out, n_in, dy,
                               accumulate, dx);
  core::count_product(n_rows, n_out, n_in);
  const float beta = accumulate ? 1.0F : 0.0F;
  if (weight.dtype == core::DType::bf16)
    return context.linalg().gemm_16_back(context.exec(), n_rows, n_in, n_out, dy, n_out, weight.dtype,
                                         weight.narrow.data(), n_in, beta, dx, n_in);
  backend::Array<float> widened;
  if (weight.dtype != core::DType::f32) widened = widened_rows(context, weight, n_out, n_in);
  context.linalg().gemm_f32(context.exec(), false, false, n_rows, n_in, n_out, 1.0F, dy, n_out,
                            widened.empty() ? weight.wide.data() : widened.data(), n_in, beta, dx, n_in);
}

backend::Array<float> widened_rows(backend::Context& context, const LinearWeight& weight, std::int64_t n_rows,
                                   std::int64_t n_in) {
  std::vector<std::int32_t> rows(static_cast<std::size_t>(n_rows));
  std::iota(rows.begin(), rows.end(), 0);
  const backend::Array<std::int32_t> ids(context, std::span<const std::int32_t>(rows));
  backend::Array<float> wide(context, n_rows * n_in);
  gather_rows(context, weight, ids.data(), n_rows, n_in, wide.data());
  return wide;
}

void gather_rows(backend::Context& context, const LinearWeight& weight, const std::int32_t* ids, std::int64_t n_ids,
                 std::int64_t n_in, float* out) {
  if (weight.dtype == core::DType::f32)
    context.linalg().gather_rows_f32(context.exec(), ids, n_ids, n_in, weight.wide.data(), out);
  else
    context.linalg().gather_rows_16(context.exec(), ids, n_ids, n_in, weight.dtype, weight.narrow.data(), out);
}

}  // namespace voronoi::model
