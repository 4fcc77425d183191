// What stands around decoding and product of linears between two rotations on the CPU.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/cpu/rows.h"
#include "kernels/exec.h"
#include "kernels/kernels.h"
#include "kernels/rotation.h"

namespace voronoi::kernels::rotation {

/// A matrix whose rows are turned back already becomes W: each weight times its output's factor, then its input's.
template <class Packed>
void finish_decoding(const Exec& exec, const Packed& p, float* weight) {
  const std::int64_t in = p.in_features;
  if (p.out.n > 0) cpu().rotation.turn_columns(exec, p.out, true, in, weight);
  if (p.factors.in == nullptr && p.factors.out == nullptr) return;
  for_row_chunks(exec, p.out_features, in, [&](std::int64_t first, std::int64_t count) {
    for (std::int64_t row = first; row < first + count; ++row) {
      float* values = weight + row * in;
      if (p.factors.out != nullptr) {
        const float by = p.factors.out[row];
        for (std::int64_t c = 0; c < in; ++c) values[c] *= by;
      }
      if (const float* by = p.factors.in; by != nullptr)
        for (std::int64_t c = 0; c < in; ++c) values[c] *= by[c];
    }
  });
}

/// fused_matmul by multiply(tokens, products): products [n_tokens, out] = tokens [n_tokens, in] Q^T.
template <class Packed, class Multiply>
void multiply_turned(const Exec& exec, const Packed& p, std::int64_t n_tokens, const float* x, bool accumulate,
                     float* out, const Multiply& multiply) {
  const std::int64_t in = p.in_features, n_out = p.out_features;
  const auto scale = [](std::int64_t n, const float* factors, std::vector<float>& rows) {
    if (factors == nullptr) return;
    for (std::size_t i = 0; i < rows.size(); ++i) rows[i] *= factors[static_cast<std::int64_t>(i) % n];
  };
  std::vector<float> turned(x, x + n_tokens * in), products(static_cast<std::size_t>(n_tokens * n_out));
  scale(in, p.factors.in, turned);
  if (p.in.n > 0) cpu().rotation.turn_rows(exec, p.in, false, n_tokens, turned.data());
  multiply(turned.data(), products.data());
  if (p.out.n > 0) cpu().rotation.turn_rows(exec, p.out, true, n_tokens, products.data());
  scale(n_out, p.factors.out, products);
  for (std::size_t i = 0; i < products.size(); ++i) out[i] = accumulate ? out[i] + products[i] : products[i];
}

}  // namespace voronoi::kernels::rotation
