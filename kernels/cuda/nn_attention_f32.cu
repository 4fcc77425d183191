// Attention in fp32 throughout: what the 16-bit kernel is measured against, and --dtype f32. Bound by reads of shared
// memory, about one a fused multiply-add and a half.
#include "kernels/cuda/attention.cuh"

namespace voronoi::kernels::gpu {
namespace {

constexpr int kRows = 64, kKeys = 32;
// Threads stand 16 x 16: thread (y, x) has rows 4 y .. 4 y + 3 and columns x, x + 16, ... of every tile.
constexpr int kSide = 16, kOwn = kRows / kSide;
constexpr int kScoreLd = kKeys + 1;

template <int kDim>
struct AttentionShared {
  static constexpr int kLd = kDim + 4;  // multiples of 16 bytes; 16 neighbouring rows start in different banks
  static constexpr std::int64_t kBytes = 4 * (std::int64_t{kRows + kKeys} * kLd + kRows * kScoreLd);
};

/// Rows [0, n) of `tile` from rows of `from`, ld apart, zeros beyond n_valid rows and head_dim columns.
template <int kDim>
__device__ __forceinline__ void load_rows(float* tile, const float* from, std::int64_t ld, int n_valid, int head_dim,
                                          bool vectors) {
  for (int i = static_cast<int>(threadIdx.x); i < kKeys * (kDim / 4); i += kNnThreads) {
    const int row = i / (kDim / 4), column = i % (kDim / 4) * 4;
    const bool valid = row < n_valid;
    *reinterpret_cast<float4*>(tile + row * AttentionShared<kDim>::kLd + column) =
        load_4(from + (valid ? row * ld : 0), column, head_dim, valid, vectors);
  }
}

template <int kDim>
__global__ void __launch_bounds__(kNnThreads, 1)
    attention_32(AttentionShape shape, bool vectors, const float* q, const float* k, const float* v, float* out) {
  constexpr int kLd = AttentionShared<kDim>::kLd;
  float* queries = dynamic_shared<float>();
  float* operand = queries + kRows * kLd;  // keys, then values
  float* scores = operand + kKeys * kLd;
  const AttentionTile tile = attention_tile(shape, kRows, q, k, v, out);
  const int head_dim = static_cast<int>(shape.head_dim), window = window_of(shape);
  const int y = static_cast<int>(threadIdx.x) / kSide, x = static_cast<int>(threadIdx.x) % kSide;

  for (int i = static_cast<int>(threadIdx.x); i < kRows * (kDim / 4); i += kNnThreads) {
    const int row = i / (kDim / 4), column = i % (kDim / 4) * 4;
    const int at = tile.first_row + row;
    const bool valid = at < tile.n_rows;
    *reinterpret_cast<float4*>(queries + row * kLd + column) =
        load_4(tile.q + (valid ? tile.offset(at, shape.ld_q, head_dim) : 0), column, head_dim, valid, vectors);
  }

  float sums[kOwn][kDim / kSide] = {};
  float maximum[kOwn], total[kOwn];
  int token[kOwn];
#pragma unroll
  for (int i = 0; i < kOwn; ++i) {
    token[i] = tile.token(tile.first_row + y * kOwn + i);
    maximum[i] = tile.first_maximum(tile.first_row + y * kOwn + i);
    total[i] = tile.first_total();
  }

  for (int block = tile.first_key / kKeys * kKeys; block <= tile.last_key; block += kKeys) {
    sync_threads();
    load_rows<kDim>(operand, tile.k + block * shape.ld_kv, shape.ld_kv, tile.last_key + 1 - block, head_dim, vectors);
    sync_threads();
    float product[kOwn][2] = {};
    for (int column = 0; column < head_dim; column += 4) {
      const float4 a = *reinterpret_cast<const float4*>(operand + x * kLd + column);
      const float4 b = *reinterpret_cast<const float4*>(operand + (x + kSide) * kLd + column);
#pragma unroll
      for (int i = 0; i < kOwn; ++i) {
        const float4 c = *reinterpret_cast<const float4*>(queries + (y * kOwn + i) * kLd + column);
        product[i][0] = fmaf(c.w, a.w, fmaf(c.z, a.z, fmaf(c.y, a.y, fmaf(c.x, a.x, product[i][0]))));
        product[i][1] = fmaf(c.w, b.w, fmaf(c.z, b.z, fmaf(c.y, b.y, fmaf(c.x, b.x, product[i][1]))));
      }
    }
#pragma unroll
    for (int i = 0; i < kOwn; ++i) {
      float largest = maximum[i];
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        const int age = token[i] - (block + x + j * kSide);
        const bool seen = age >= 0 && age < window;
        product[i][j] = seen ? capped(shape, product[i][j] * shape.scale) : -INFINITY;
        largest = fmaxf(largest, product[i][j]);
      }
      for (int step = kSide / 2; step > 0; step /= 2) largest = fmaxf(largest, shuffle_xor(largest, step));
      const float correction = expf(maximum[i] - largest);
      maximum[i] = largest;
      float sum = 0;
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        const float numerator = expf(product[i][j] - largest);
        scores[(y * kOwn + i) * kScoreLd + x + j * kSide] = numerator;
        sum += numerator;
      }
      for (int step = kSide / 2; step > 0; step /= 2) sum += shuffle_xor(sum, step);
      total[i] = fmaf(total[i], correction, sum);
#pragma unroll
      for (int j = 0; j < kDim / kSide; ++j) sums[i][j] *= correction;
    }
    sync_threads();
    load_rows<kDim>(operand, tile.v + block * shape.ld_kv, shape.ld_kv, tile.last_key + 1 - block, head_dim, vectors);
    sync_threads();
    for (int key = 0; key < kKeys; ++key) {
      float numerator[kOwn];
#pragma unroll
      for (int i = 0; i < kOwn; ++i) numerator[i] = scores[(y * kOwn + i) * kScoreLd + key];
#pragma unroll
      for (int j = 0; j < kDim / kSide; ++j) {
        const float value = operand[key * kLd + x + j * kSide];
#pragma unroll
        for (int i = 0; i < kOwn; ++i) sums[i][j] = fmaf(numerator[i], value, sums[i][j]);
      }
    }
  }

#pragma unroll
  for (int i = 0; i < kOwn; ++i) {
    const int row = tile.first_row + y * kOwn + i;
    if (row >= tile.n_rows) continue;
    const float inverse = 1.0F / total[i];
    float* target = tile.out + tile.offset(row, shape.ld_out, head_dim);
#pragma unroll
    for (int j = 0; j < kDim / kSide; ++j)
      if (x + j * kSide < head_dim) target[x + j * kSide] = sums[i][j] * inverse;
  }
}

template <int kDim>
void attend(Native& native, const AttentionShape& shape, bool vectors, const float* q, const float* k, const float* v,
            float* out) {
  const std::int64_t tiles = core::ceil_div(shape.n_tokens * (shape.n_heads / shape.n_kv_heads), kRows);
  launch(native, attention_32<kDim>, grid_of(tiles * shape.n_sequences * shape.n_kv_heads), dim3(kNnThreads),
         AttentionShared<kDim>::kBytes, shape, vectors, q, k, v, out);
}

}  // namespace

void attention_f32(Native& native, const AttentionShape& shape, bool vectors, const float* q, const float* k,
                   const float* v, float* out) {
  if (shape.head_dim <= 64)
    attend<64>(native, shape, vectors, q, k, v, out);
  else if (shape.head_dim <= 128)
    attend<128>(native, shape, vectors, q, k, v, out);
  else
    attend<256>(native, shape, vectors, q, k, v, out);
}

}  // namespace voronoi::kernels::gpu
