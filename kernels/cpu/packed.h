// What the CPU twins of packed products share.
#pragma once

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "core/types.h"
#include "kernels/cpu/packed_rows.h"
#include "kernels/exec.h"

namespace voronoi::kernels::packed {

constexpr std::size_t index(std::int64_t value) { return static_cast<std::size_t>(value); }

/// n values of `dtype` widened. Half precision without a branch a value, so that compilers vectorise it: the exponent
/// is moved into place and rebiased by an exact multiplication, which also normalises subnormals. Finite values only.
inline std::vector<float> widen(core::DType dtype, const std::uint16_t* bits, std::int64_t n) {
  std::vector<float> values(index(bits == nullptr ? 0 : n));
  const bool half = dtype == core::DType::f16;
  for (std::size_t i = 0; i < values.size(); ++i) {
    const std::uint32_t sign = static_cast<std::uint32_t>(bits[i] & 0x8000U) << 16;
    const std::uint32_t rest = bits[i] & 0x7FFFU;
    values[i] =
        half ? std::bit_cast<float>(std::bit_cast<std::uint32_t>(std::bit_cast<float>(rest << 13) * 0x1p112F) | sign)
             : std::bit_cast<float>(sign | rest << 16);
  }
  return values;
}

/// Tokens x [n_tokens, n] with their inputs as the columns are stored, perm[j] being the place of stored column j;
/// empty without a perm.
inline std::vector<float> stored_order(const std::uint16_t* perm, std::int64_t n_tokens, std::int64_t n,
                                       const float* x) {
  std::vector<float> stored(index(perm == nullptr ? 0 : n_tokens * n));
  for (std::size_t i = 0; i < stored.size(); ++i) {
    const auto at = static_cast<std::int64_t>(i), column = at % n;
    stored[i] = x[at - column + perm[column]];
  }
  return stored;
}

/// weight [n_rows, n] = wide [n_rows, n] rounded to `dtype`.
inline void narrow_rows(const Exec& exec, std::int64_t n_rows, std::int64_t n, core::DType dtype, const float* wide,
                        std::uint16_t* weight) {
  exec.pool->parallel_for(n_rows, [&](std::int64_t row) {
    const float* values = wide + row * n;
    if (dtype == core::DType::bf16)
      std::transform(values, values + n, weight + row * n, core::float_to_bfloat);
    else
      std::transform(values, values + n, weight + row * n, core::float_to_half);
  });
}

}  // namespace voronoi::kernels::packed
