// What the attention kernels share: how rows are dealt to blocks, what a row may see.
//
// A block takes kRows rows of one sequence and one key head. A row is a pair (token, query head of the group), tokens
// first, so that all query heads of a group use a tile of keys and values while it is in shared memory. Online softmax:
// Milakov and Gimelshein 2018, Dao et al. 2022.
#pragma once

#include <initializer_list>

#include "kernels/cuda/nn.cuh"

namespace voronoi::kernels::gpu {

/// What a block works on. q, out: the first head of the group; k, v: the key head; all at the sequence's first row.
/// Rows and keys are counted in 32 bits: registers are short.
struct AttentionTile {
  const float *q, *k, *v;
  float* out;
  int group, first_row, n_rows, n_past;  // n_rows: of the whole sequence
  int first_key, last_key;               // of those that any row of the tile sees, inclusive
  const float* sinks;                    // of the group's heads; null: none

  /// Its position.
  __device__ int token(int row) const { return n_past + (row < n_rows ? row : n_rows - 1) / group; }
  /// The largest score and the sum of exponentials that a row begins with.
  __device__ float first_maximum(int row) const;
  __device__ float first_total() const { return sinks == nullptr ? 0.0F : 1.0F; }
  __device__ std::int64_t offset(int row, std::int64_t ld, std::int64_t head_dim) const {
    return row / group * ld + row % group * head_dim;
  }
};

/// Late rows see the most keys: they come first, so that no multiprocessor is left with a long one at the end.
__device__ __forceinline__ AttentionTile attention_tile(const AttentionShape& shape, int rows_a_tile, const float* q,
                                                        const float* k, const float* v, float* out) {
  const auto pairs = static_cast<unsigned>(shape.n_sequences * shape.n_kv_heads);
  const unsigned tile = gridDim.x / pairs - 1 - blockIdx.x / pairs, pair = blockIdx.x % pairs;
  const auto n_kv_heads = static_cast<unsigned>(shape.n_kv_heads);
  const std::int64_t sequence = pair / n_kv_heads, kv_head = pair % n_kv_heads;
  const std::int64_t first_token = sequence * shape.n_tokens, first_key = sequence * (shape.n_past + shape.n_tokens);
  AttentionTile t;
  t.group = static_cast<int>(shape.n_heads / shape.n_kv_heads);
  t.q = q + first_token * shape.ld_q + kv_head * t.group * shape.head_dim;
  t.k = k + first_key * shape.ld_kv + kv_head * shape.head_dim;
  t.v = v + first_key * shape.ld_kv + kv_head * shape.head_dim;
  t.out = out + first_token * shape.ld_out + kv_head * t.group * shape.head_dim;
  t.n_rows = static_cast<int>(shape.n_tokens) * t.group;
  t.first_row = static_cast<int>(tile) * rows_a_tile;
  t.n_past = static_cast<int>(shape.n_past);
  t.last_key = t.token(t.first_row + rows_a_tile - 1);
  const std::int64_t oldest = shape.window > 0 ? t.token(t.first_row) - shape.window + 1 : 0;
  t.first_key = oldest > 0 ? static_cast<int>(oldest) : 0;
  t.sinks = shape.sinks == nullptr ? nullptr : shape.sinks + kv_head * t.group;
  return t;
}

/// Keys a row sees before its own token, as a bound that fits 32 bits.
__device__ __forceinline__ int window_of(const AttentionShape& shape) {
  const std::int64_t n_keys = shape.n_past + shape.n_tokens;
  return static_cast<int>(shape.window > 0 && shape.window < n_keys ? shape.window : n_keys);
}

__device__ __forceinline__ float capped(const AttentionShape& shape, float score) {
  return shape.softcap > 0 ? shape.softcap * tanhf(score / shape.softcap) : score;
}

/// Four values of a row from `column` on; zeros from n_columns on, or when the row is not `valid`. `vectors`: rows may
/// be read 16 bytes at a time.
__device__ __forceinline__ float4 load_4(const float* row, int column, int n_columns, bool valid, bool vectors) {
  float4 value;
  value.x = value.y = value.z = value.w = 0;
  if (!valid) return value;
  if (vectors && column + 4 <= n_columns) return *reinterpret_cast<const float4*>(row + column);
  if (column < n_columns) value.x = row[column];
  if (column + 1 < n_columns) value.y = row[column + 1];
  if (column + 2 < n_columns) value.z = row[column + 2];
  if (column + 3 < n_columns) value.w = row[column + 3];
  return value;
}

constexpr float kNoScore = -1e30F;  // below any score that counts

__device__ __forceinline__ float AttentionTile::first_maximum(int row) const {
  return sinks == nullptr ? kNoScore : sinks[row % group];
}

/// Throws for shapes that the kernels cannot take; false: nothing to do.
bool check_attention(const AttentionShape& shape);
/// Whether rows of q, k, v (and others of their layouts) may be read 16 bytes at a time.
bool vector_loads(const AttentionShape& shape, std::initializer_list<const float*> arrays);

void attention_f32(Native& native, const AttentionShape& shape, bool vectors, const float* q, const float* k,
                   const float* v, float* out);

}  // namespace voronoi::kernels::gpu
