// What the two attention kernels share: how rows are dealt to blocks, what a row may see.
//
// A block takes kRows rows of one sequence and one key head. A row is a pair (token, query head of the group), tokens
// first, so that all query heads of a group use a tile of keys and values while it is in shared memory. Online softmax:
// Milakov and Gimelshein 2018, Dao et al. 2022.
#pragma once

#include "kernels/cuda/nn.cuh"

namespace voronoi::kernels::gpu {

/// What a block works on. q, out: the first head of the group; k, v: the key head; all at the sequence's first token.
struct AttentionTile {
  const float *q, *k, *v;
  float* out;
  std::int64_t group, first_row, n_rows;  // n_rows: of the whole sequence
  std::int64_t first_key, last_key;       // of those that any row of the tile sees, inclusive

  __device__ std::int64_t token(std::int64_t row) const { return row / group; }
  __device__ std::int64_t offset(std::int64_t row, std::int64_t ld, std::int64_t head_dim) const {
    return row / group * ld + row % group * head_dim;
  }
};

/// Late rows see the most keys: they come first, so that no multiprocessor is left with a long one at the end.
__device__ __forceinline__ AttentionTile attention_tile(const AttentionShape& shape, int rows_a_tile, const float* q,
                                                        const float* k, const float* v, float* out) {
  const std::int64_t pairs = shape.n_sequences * shape.n_kv_heads;
  const std::int64_t tile = gridDim.x / pairs - 1 - blockIdx.x / pairs, pair = blockIdx.x % pairs;
  const std::int64_t first_token = pair / shape.n_kv_heads * shape.n_tokens, kv_head = pair % shape.n_kv_heads;
  AttentionTile t;
  t.group = shape.n_heads / shape.n_kv_heads;
  t.q = q + first_token * shape.ld_q + kv_head * t.group * shape.head_dim;
  t.k = k + first_token * shape.ld_kv + kv_head * shape.head_dim;
  t.v = v + first_token * shape.ld_kv + kv_head * shape.head_dim;
  t.out = out + first_token * shape.ld_out + kv_head * t.group * shape.head_dim;
  t.n_rows = shape.n_tokens * t.group;
  t.first_row = tile * rows_a_tile;
  const std::int64_t last_row = t.first_row + rows_a_tile < t.n_rows ? t.first_row + rows_a_tile - 1 : t.n_rows - 1;
  t.last_key = t.token(last_row);
  const std::int64_t oldest = shape.window > 0 ? t.token(t.first_row) - shape.window + 1 : 0;
  t.first_key = oldest > 0 ? oldest : 0;
  return t;
}

__device__ __forceinline__ bool sees(const AttentionShape& shape, std::int64_t token, std::int64_t key) {
  return key <= token && (shape.window <= 0 || key > token - shape.window);
}

__device__ __forceinline__ float capped(const AttentionShape& shape, float score) {
  return shape.softcap > 0 ? shape.softcap * tanhf(score / shape.softcap) : score;
}

/// Four values of a row from `column` on; zeros from n_columns on, or when the row is not `valid`. `vectors`: rows may
/// be read 16 bytes at a time.
__device__ __forceinline__ float4 load_4(const float* row, std::int64_t column, std::int64_t n_columns, bool valid,
                                         bool vectors) {
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

void attention_f32(Native& native, const AttentionShape& shape, bool vectors, const float* q, const float* k,
                   const float* v, float* out);

}  // namespace voronoi::kernels::gpu
