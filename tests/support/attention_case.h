// Shapes of attention that its twins are tried on.
#pragma once

#include <cmath>
#include <cstdint>
#include <ostream>

#include "core/types.h"
#include "kernels/nn.h"

namespace voronoi::test {

struct AttentionCase {
  std::int64_t n_sequences, n_tokens, n_heads, n_kv_heads, head_dim, window;
  float softcap = 0;
  std::int64_t padding = 0;  ///< of rows: odd ones forbid vector loads
  std::int64_t n_past = 0;
};

inline std::ostream& operator<<(std::ostream& out, const AttentionCase& c) {
  return out << c.n_sequences << " x " << c.n_tokens << " tokens, heads " << c.n_heads << "/" << c.n_kv_heads << " of "
             << c.head_dim << ", window " << c.window << ", cap " << c.softcap << ", padding " << c.padding << ", "
             << c.n_past << " before them";
}

inline kernels::AttentionShape shape_of(const AttentionCase& c) {
  kernels::AttentionShape shape{};
  shape.n_sequences = c.n_sequences;
  shape.n_tokens = c.n_tokens;
  shape.n_heads = c.n_heads;
  shape.n_kv_heads = c.n_kv_heads;
  shape.head_dim = c.head_dim;
  shape.window = c.window;
  shape.softcap = c.softcap;
  shape.n_past = c.n_past;
  shape.scale = 1.0F / std::sqrt(static_cast<float>(c.head_dim));
  shape.ld_q = c.n_heads * c.head_dim + c.padding;
  shape.ld_kv = c.n_kv_heads * c.head_dim + c.padding;
  shape.ld_out = c.n_heads * c.head_dim + 2 * c.padding;
  return shape;
}

}  // namespace voronoi::test
