// Derivatives of attention in fp32, scores recomputed from q and k. Two kernels, so that each sum stays with one block
// and in one order: over tiles of rows (softmax, then dq), and over tiles of keys (dk, dv). Bound by reads of shared
// memory.
#include "kernels/cuda/attention.cuh"
#include "kernels/cuda/nn_gradient.cuh"

namespace voronoi::kernels::gpu {
namespace {

// A tile of rows (pairs of a token and a query head of the group, tokens first) against one of keys. Threads stand 16 x
// 16: of scores thread (y, x) has rows 2 y, 2 y + 1 and keys x, x + 16; of a product of a tile's rows (or keys) 2 y, 2
// y + 1 and columns x, x + 16, ...
constexpr int kTile = 32, kSide = 16, kOwn = kTile / kSide;
constexpr int kScoreLd = kTile + 1;

/// Of a row: scores count as exp(score - maximum) * inverse; delta is d_out . out.
struct RowStatistics {
  float maximum, inverse, delta;
};

template <int kDim>
struct GradientShared {
  static constexpr int kLd = kDim + 4;  // as in attention_32
  static constexpr std::int64_t kBytes = 4 * (std::int64_t{4} * kTile * kLd + 2 * kTile * kScoreLd);
  float *rows, *d_rows, *keys, *values;  ///< [kTile, kLd]
  float *shares, *slopes;                ///< [kTile, kScoreLd]: softmax, and the loss by the score's product

  __device__ GradientShared()
      : rows(dynamic_shared<float>()),
        d_rows(rows + kTile * kLd),
        keys(d_rows + kTile * kLd),
        values(keys + kTile * kLd),
        shares(values + kTile * kLd),
        slopes(shares + kTile * kScoreLd) {}
};

/// Pairs of a sequence and a key head: neighbouring blocks take the same tile of each.
__device__ __forceinline__ unsigned pairs_of(const AttentionShape& shape) {
  return static_cast<unsigned>(shape.n_sequences * shape.n_kv_heads);
}

/// What a block works for: one such pair.
struct HeadGroup {
  std::int64_t first_token, kv_head;
  int group, n_rows, n_tokens;

  __device__ HeadGroup(const AttentionShape& shape, unsigned pair)
      : first_token(pair / shape.n_kv_heads * shape.n_tokens),
        kv_head(pair % shape.n_kv_heads),
        group(static_cast<int>(shape.n_heads / shape.n_kv_heads)),
        n_rows(static_cast<int>(shape.n_tokens) * group),
        n_tokens(static_cast<int>(shape.n_tokens)) {}
  /// Of a row's head in an array of query heads, and of a key in one of key heads.
  __device__ std::int64_t row_at(const AttentionShape& shape, int row, std::int64_t ld) const {
    return (first_token + row / group) * ld + (kv_head * group + row % group) * shape.head_dim;
  }
  __device__ float sink(const AttentionShape& shape, int row) const {
    return shape.sinks == nullptr ? kNoScore : shape.sinks[kv_head * group + row % group];
  }
  __device__ std::int64_t key_at(const AttentionShape& shape, int key) const {
    return (first_token + key) * shape.ld_kv + kv_head * shape.head_dim;
  }
};

/// tile [kTile, kLd] = rows from + at(i), zeros beyond n_valid rows and head_dim columns.
template <int kDim, class At>
__device__ __forceinline__ void load_tile(float* tile, const float* from, int n_valid, int head_dim, bool vectors,
                                          const At& at) {
  for (int i = static_cast<int>(threadIdx.x); i < kTile * (kDim / 4); i += kNnThreads) {
    const int row = i / (kDim / 4), column = i % (kDim / 4) * 4;
    const bool valid = row < n_valid;
    *reinterpret_cast<float4*>(tile + row * GradientShared<kDim>::kLd + column) =
        load_4(from + (valid ? at(row) : 0), column, head_dim, valid, vectors);
  }
}

/// products[i][j] = row 2 y + i of a . row x + 16 j of b.
template <int kLd>
__device__ __forceinline__ void row_products(const float* a, const float* b, int head_dim, int y, int x,
                                             float (&products)[kOwn][kOwn]) {
#pragma unroll
  for (int i = 0; i < kOwn; ++i)
#pragma unroll
    for (int j = 0; j < kOwn; ++j) products[i][j] = 0;
  for (int column = 0; column < head_dim; column += 4) {
    float4 right[kOwn];
#pragma unroll
    for (int j = 0; j < kOwn; ++j) right[j] = *reinterpret_cast<const float4*>(b + (x + j * kSide) * kLd + column);
#pragma unroll
    for (int i = 0; i < kOwn; ++i) {
      const float4 left = *reinterpret_cast<const float4*>(a + (y * kOwn + i) * kLd + column);
#pragma unroll
      for (int j = 0; j < kOwn; ++j)
        products[i][j] =
            fmaf(left.w, right[j].w,
                 fmaf(left.z, right[j].z, fmaf(left.y, right[j].y, fmaf(left.x, right[j].x, products[i][j]))));
    }
  }
}

/// sums[i][j] += over the tile's `inner` places t of factors(2 y + i, t) * tile[t, x + 16 j].
template <int kLd, int kColumns, class Factors>
__device__ __forceinline__ void add_product(const float* tile, int x, const Factors& factors,
                                            float (&sums)[kOwn][kColumns]) {
  for (int t = 0; t < kTile; ++t) {
    float factor[kOwn];
#pragma unroll
    for (int i = 0; i < kOwn; ++i) factor[i] = factors(i, t);
#pragma unroll
    for (int j = 0; j < kColumns; ++j) {
      const float value = tile[t * kLd + x + j * kSide];
#pragma unroll
      for (int i = 0; i < kOwn; ++i) sums[i][j] = fmaf(factor[i], value, sums[i][j]);
    }
  }
}

/// Whether a row sees a key.
struct Sight {
  int first_row, first_key, window;
  __device__ bool operator()(const HeadGroup& heads, int row, int key) const {
    const int age = (first_row + row) / heads.group - (first_key + key);
    return first_row + row < heads.n_rows && age >= 0 && age < window;
  }
};

/// Fills shares and slopes of the tiles in shared memory; statistics: of the thread's own rows.
template <int kDim>
__device__ __forceinline__ void differentiate(const AttentionShape& shape, const GradientShared<kDim>& shared,
                                              const HeadGroup& heads, const Sight& sees, int y, int x,
                                              const RowStatistics (&statistics)[kOwn]) {
  constexpr int kLd = GradientShared<kDim>::kLd;
  const int head_dim = static_cast<int>(shape.head_dim);
  float scores[kOwn][kOwn], d_shares[kOwn][kOwn];
  row_products<kLd>(shared.rows, shared.keys, head_dim, y, x, scores);
  row_products<kLd>(shared.d_rows, shared.values, head_dim, y, x, d_shares);
#pragma unroll
  for (int i = 0; i < kOwn; ++i)
#pragma unroll
    for (int j = 0; j < kOwn; ++j) {
      const int row = y * kOwn + i, key = x + j * kSide;
      float share = 0, slope = 0;
      if (sees(heads, row, key)) {
        const float score = capped(shape, scores[i][j] * shape.scale);
        share = expf(score - statistics[i].maximum) * statistics[i].inverse;
        slope = share * (d_shares[i][j] - statistics[i].delta);
        if (shape.softcap > 0) {
          const float part = score / shape.softcap;
          slope *= fmaf(-part, part, 1.0F);
        }
      }
      shared.shares[row * kScoreLd + key] = share;
      shared.slopes[row * kScoreLd + key] = slope;
    }
}

/// Block (row tile, pair): statistics [pairs, n_rows] of its rows, and dq.
template <int kDim>
__global__ void __launch_bounds__(kNnThreads, 1)
    row_gradient_kernel(AttentionShape shape, bool vectors, const float* q, const float* k, const float* v,
                        const float* out, const float* d_out, RowStatistics* statistics, float* dq, float* d_sinks) {
  constexpr int kLd = GradientShared<kDim>::kLd, kColumns = kDim / kSide;
  const GradientShared<kDim> shared;
  const unsigned pairs = pairs_of(shape), pair = blockIdx.x % pairs;
  const HeadGroup heads(shape, pair);
  const int head_dim = static_cast<int>(shape.head_dim), window = window_of(shape);
  const int y = static_cast<int>(threadIdx.x) / kSide, x = static_cast<int>(threadIdx.x) % kSide;
  // Late rows see the most keys: they come first, so that no multiprocessor is left with a long one at the end.
  const int first_row = static_cast<int>(gridDim.x / pairs - 1 - blockIdx.x / pairs) * kTile;
  const int n_valid = heads.n_rows - first_row < kTile ? heads.n_rows - first_row : kTile;
  load_tile<kDim>(shared.rows, q, n_valid, head_dim, vectors,
                  [&](int row) { return heads.row_at(shape, first_row + row, shape.ld_q); });
  load_tile<kDim>(shared.d_rows, d_out, n_valid, head_dim, vectors,
                  [&](int row) { return heads.row_at(shape, first_row + row, shape.ld_out); });
  const int oldest = first_row / heads.group - window + 1;
  const int first_key = oldest > 0 ? oldest / kTile * kTile : 0, last_key = (first_row + n_valid - 1) / heads.group;
  const auto load_keys = [&](float* tile, const float* from, int key) {
    load_tile<kDim>(tile, from, last_key + 1 - key, head_dim, vectors,
                    [&](int row) { return heads.key_at(shape, key + row); });
  };

  RowStatistics own[kOwn];
  float total[kOwn] = {};
#pragma unroll
  for (int i = 0; i < kOwn; ++i) {
    own[i].maximum = heads.sink(shape, first_row + y * kOwn + i);
    total[i] = shape.sinks == nullptr ? 0.0F : 1.0F;
  }
  for (int key = first_key; key <= last_key; key += kTile) {
    sync_threads();
    load_keys(shared.keys, k, key);
    sync_threads();
    float scores[kOwn][kOwn];
    row_products<kLd>(shared.rows, shared.keys, head_dim, y, x, scores);
    const Sight sees{first_row, key, window};
#pragma unroll
    for (int i = 0; i < kOwn; ++i) {
      float largest = own[i].maximum;
#pragma unroll
      for (int j = 0; j < kOwn; ++j) {
        scores[i][j] = sees(heads, y * kOwn + i, x + j * kSide) ? capped(shape, scores[i][j] * shape.scale) : -INFINITY;
        largest = fmaxf(largest, scores[i][j]);
      }
      for (int step = kSide / 2; step > 0; step /= 2) largest = fmaxf(largest, shuffle_xor(largest, step));
      float sum = 0;
#pragma unroll
      for (int j = 0; j < kOwn; ++j) sum += expf(scores[i][j] - largest);
      for (int step = kSide / 2; step > 0; step /= 2) sum += shuffle_xor(sum, step);
      total[i] = fmaf(total[i], expf(own[i].maximum - largest), sum);
      own[i].maximum = largest;
    }
  }
#pragma unroll
  for (int i = 0; i < kOwn; ++i) {
    const int row = y * kOwn + i;
    const bool valid = row < n_valid;
    const float* from = out + (valid ? heads.row_at(shape, first_row + row, shape.ld_out) : 0);
    float delta = 0;
    for (int column = x; column < head_dim && valid; column += kSide)
      delta = fmaf(shared.d_rows[row * kLd + column], from[column], delta);
    for (int step = kSide / 2; step > 0; step /= 2) delta += shuffle_xor(delta, step);
    own[i].delta = delta;
    own[i].inverse = 1.0F / total[i];
    if (!valid || x != 0) continue;
    statistics[static_cast<std::int64_t>(pair) * heads.n_rows + first_row + row] = own[i];
    if (shape.sinks == nullptr) continue;
    const int at = first_row + row;
    d_sinks[(heads.first_token + at / heads.group) * shape.n_heads + heads.kv_head * heads.group + at % heads.group] =
        -expf(heads.sink(shape, at) - own[i].maximum) * own[i].inverse * own[i].delta;
  }

  float sums[kOwn][kColumns] = {};
  for (int key = first_key; key <= last_key; key += kTile) {
    sync_threads();
    load_keys(shared.keys, k, key);
    load_keys(shared.values, v, key);
    sync_threads();
    differentiate<kDim>(shape, shared, heads, {first_row, key, window}, y, x, own);
    sync_threads();
    add_product<kLd>(
        shared.keys, x, [&](int i, int t) { return shared.slopes[(y * kOwn + i) * kScoreLd + t]; }, sums);
  }
#pragma unroll
  for (int i = 0; i < kOwn; ++i) {
    const int row = y * kOwn + i;
    if (row >= n_valid) continue;
    float* target = dq + heads.row_at(shape, first_row + row, shape.ld_q);
#pragma unroll
    for (int j = 0; j < kColumns; ++j)
      if (x + j * kSide < head_dim) target[x + j * kSide] = shape.scale * sums[i][j];
  }
}

/// Block (key tile, pair): dk and dv of its keys.
template <int kDim>
__global__ void __launch_bounds__(kNnThreads, 1)
    key_gradient_kernel(AttentionShape shape, bool vectors, const float* q, const float* k, const float* v,
                        const float* d_out, const RowStatistics* statistics, float* dk, float* dv) {
  constexpr int kLd = GradientShared<kDim>::kLd, kColumns = kDim / kSide;
  const GradientShared<kDim> shared;
  const unsigned pairs = pairs_of(shape), pair = blockIdx.x % pairs;
  const HeadGroup heads(shape, pair);
  const int head_dim = static_cast<int>(shape.head_dim), window = window_of(shape);
  const int y = static_cast<int>(threadIdx.x) / kSide, x = static_cast<int>(threadIdx.x) % kSide;
  const int first_key = static_cast<int>(blockIdx.x / pairs) * kTile;  // early keys are seen by the most rows
  const int n_keys = heads.n_tokens - first_key < kTile ? heads.n_tokens - first_key : kTile;
  const auto key_at = [&](int key) { return heads.key_at(shape, first_key + key); };
  load_tile<kDim>(shared.keys, k, n_keys, head_dim, vectors, key_at);
  load_tile<kDim>(shared.values, v, n_keys, head_dim, vectors, key_at);
  const int last_token =
      heads.n_tokens - window < first_key + n_keys - 1 ? heads.n_tokens - 1 : first_key + n_keys - 2 + window;
  const int last_row = last_token * heads.group + heads.group - 1;
  const RowStatistics* of_pair = statistics + static_cast<std::int64_t>(pair) * heads.n_rows;

  float d_keys[kOwn][kColumns] = {}, d_values[kOwn][kColumns] = {};
  for (int first_row = first_key * heads.group; first_row <= last_row; first_row += kTile) {
    sync_threads();
    load_tile<kDim>(shared.rows, q, last_row + 1 - first_row, head_dim, vectors,
                    [&](int row) { return heads.row_at(shape, first_row + row, shape.ld_q); });
    load_tile<kDim>(shared.d_rows, d_out, last_row + 1 - first_row, head_dim, vectors,
                    [&](int row) { return heads.row_at(shape, first_row + row, shape.ld_out); });
    RowStatistics own[kOwn];
#pragma unroll
    for (int i = 0; i < kOwn; ++i) {
      const int row = first_row + y * kOwn + i;
      own[i] = of_pair[row < heads.n_rows ? row : heads.n_rows - 1];
    }
    sync_threads();
    differentiate<kDim>(shape, shared, heads, {first_row, first_key, window}, y, x, own);
    sync_threads();
    add_product<kLd>(
        shared.rows, x, [&](int i, int t) { return shared.slopes[t * kScoreLd + y * kOwn + i]; }, d_keys);
    add_product<kLd>(
        shared.d_rows, x, [&](int i, int t) { return shared.shares[t * kScoreLd + y * kOwn + i]; }, d_values);
  }
#pragma unroll
  for (int i = 0; i < kOwn; ++i) {
    const int key = y * kOwn + i;
    if (key >= n_keys) continue;
    const std::int64_t at = key_at(key);
#pragma unroll
    for (int j = 0; j < kColumns; ++j) {
      const int column = x + j * kSide;
      if (column >= head_dim) continue;
      dk[at + column] = shape.scale * d_keys[i][j];
      dv[at + column] = d_values[i][j];
    }
  }
}

template <int kDim>
void differentiate_heads(Native& gpu, const AttentionShape& shape, bool vectors, const float* q, const float* k,
                         const float* v, const float* out, const float* d_out, float* dq, float* dk, float* dv,
                         float* d_sinks) {
  const std::int64_t pairs = shape.n_sequences * shape.n_kv_heads;
  const std::int64_t n_rows = shape.n_tokens * (shape.n_heads / shape.n_kv_heads);
  const Scratch<RowStatistics> statistics(gpu, pairs * n_rows);
  launch(gpu, row_gradient_kernel<kDim>, grid_of(core::ceil_div(n_rows, kTile) * pairs), dim3(kNnThreads),
         GradientShared<kDim>::kBytes, shape, vectors, q, k, v, out, d_out, statistics.data(), dq, d_sinks);
  launch(gpu, key_gradient_kernel<kDim>, grid_of(core::ceil_div(shape.n_tokens, kTile) * pairs), dim3(kNnThreads),
         GradientShared<kDim>::kBytes, shape, vectors, q, k, v, d_out, statistics.data(), dk, dv);
}

}  // namespace

void attention_gradient(const Exec& exec, const AttentionShape& shape, const float* q, const float* k, const float* v,
                        const float* out, const float* d_out, float* dq, float* dk, float* dv, float* d_sinks) {
  if (!check_attention(shape)) return;
  const bool vectors = vector_loads(shape, {q, k, v, d_out}) && shape.ld_out % 4 == 0;
  Native& gpu = native(exec);
  if (shape.head_dim <= 64)
    differentiate_heads<64>(gpu, shape, vectors, q, k, v, out, d_out, dq, dk, dv, d_sinks);
  else if (shape.head_dim <= 128)
    differentiate_heads<128>(gpu, shape, vectors, q, k, v, out, d_out, dq, dk, dv, d_sinks);
  else
    differentiate_heads<256>(gpu, shape, vectors, q, k, v, out, d_out, dq, dk, dv, d_sinks);
}

}  // namespace voronoi::kernels::gpu
