// Attention on tensor cores: q, k, v and the softmax's numerators in 16 bits, sums in fp32.
//
// Floor: 4 head_dim flops a query, key and head below the diagonal, at the tensor cores' rate. What bounds it: reading
// keys and values as fp32 from the L2 cache, 64 flops a byte with 128 rows a block (the copy to shared memory rounds
// them to 16 bits); two blocks a multiprocessor compute while others load.
#include "kernels/cuda/attention.cuh"

namespace voronoi::kernels::gpu {
namespace {

constexpr int kRowsAWarp = 16;
constexpr int kRows = kNnThreads / kWarpSize * kRowsAWarp;

template <bool kBf16>
__device__ __forceinline__ std::uint32_t pack(float low, float high) {
  const std::uint32_t a = kBf16 ? float_to_bf16(low) : float_to_f16(low);
  const std::uint32_t b = kBf16 ? float_to_bf16(high) : float_to_f16(high);
  return a | b << 16;
}

template <bool kBf16>
__device__ __forceinline__ void multiply(float (&d)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2]) {
  if constexpr (kBf16)
    mma_m16n8k16_bf16(d, a, b);
  else
    mma_m16n8k16_f16(d, a, b);
}

/// Shared memory in words of two 16-bit values. The rows' padding spreads the fragments' reads over all banks: rows g
/// = 0..7 and words t = 0..3 lie 4 g + t (queries, keys: pairs along the head) or 8 t + g (values: pairs along the
/// keys) banks from the first.
template <int kDim, int kKeys>
struct AttentionShared {
  static constexpr int kRowWords = kDim / 2 + 4, kValueWords = kDim + 8;
  static constexpr int kKeysAt = kRows * kRowWords, kValuesAt = kKeysAt + kKeys * kRowWords;
  static constexpr std::int64_t kBytes = 4 * (kValuesAt + kKeys / 2 * kValueWords);
};

/// kDim: head_dim rounded up; kKeys: keys a tile.
template <int kDim, int kKeys, bool kBf16>
__global__ void __launch_bounds__(kNnThreads, kDim <= 128 ? 2 : 1)
    attention_16(AttentionShape shape, bool vectors, const float* q, const float* k, const float* v, float* out) {
  using Layout = AttentionShared<kDim, kKeys>;
  std::uint32_t* queries = dynamic_shared<std::uint32_t>();
  std::uint32_t* keys = queries + Layout::kKeysAt;
  std::uint32_t* values = queries + Layout::kValuesAt;
  const AttentionTile tile = attention_tile(shape, kRows, q, k, v, out);
  const int head_dim = static_cast<int>(shape.head_dim), window = window_of(shape);
  const int g = lane_id() / 4, t = lane_id() % 4;

  for (int i = static_cast<int>(threadIdx.x); i < kRows * (kDim / 4); i += kNnThreads) {
    const int row = i / (kDim / 4), column = i % (kDim / 4) * 4;
    const int at = tile.first_row + row;
    const bool valid = at < tile.n_rows;
    const float4 x =
        load_4(tile.q + (valid ? tile.offset(at, shape.ld_q, head_dim) : 0), column, head_dim, valid, vectors);
    std::uint32_t* words = queries + row * Layout::kRowWords + column / 2;
    words[0] = pack<kBf16>(x.x, x.y);
    words[1] = pack<kBf16>(x.z, x.w);
  }

  // This thread's fragments hold rows g and g + 8 of its warp's 16. Rows past the end repeat the last.
  const int warp_row = warp_id() * kRowsAWarp, first_row = tile.first_row + warp_row;
  const int oldest = tile.token(first_row) - window + 1, newest = tile.token(first_row + kRowsAWarp - 1);
  const int token[2] = {tile.token(first_row + g), tile.token(first_row + g + 8)};

  float sums[kDim / 8][4] = {};
  float maximum[2] = {tile.first_maximum(first_row + g), tile.first_maximum(first_row + g + 8)};
  float total[2] = {tile.first_total(), tile.first_total()};
  for (int block = tile.first_key / kKeys * kKeys; block <= tile.last_key; block += kKeys) {
    sync_threads();
    for (int i = static_cast<int>(threadIdx.x); i < kKeys / 2 * (kDim / 4); i += kNnThreads) {
      const int pair = i / (kDim / 4), column = i % (kDim / 4) * 4;
      // Keys past the last that any row sees count as zeros.
      const int key = block + 2 * pair;
      const bool first = key <= tile.last_key, second = key + 1 <= tile.last_key;
      const std::int64_t at = key * shape.ld_kv;
      float4 a = load_4(tile.k + at, column, head_dim, first, vectors);
      float4 b = load_4(tile.k + at + shape.ld_kv, column, head_dim, second, vectors);
      std::uint32_t* words = keys + 2 * pair * Layout::kRowWords + column / 2;
      words[0] = pack<kBf16>(a.x, a.y);
      words[1] = pack<kBf16>(a.z, a.w);
      words[Layout::kRowWords] = pack<kBf16>(b.x, b.y);
      words[Layout::kRowWords + 1] = pack<kBf16>(b.z, b.w);
      a = load_4(tile.v + at, column, head_dim, first, vectors);
      b = load_4(tile.v + at + shape.ld_kv, column, head_dim, second, vectors);
      words = values + pair * Layout::kValueWords + column;
      uint4 pairs;
      pairs.x = pack<kBf16>(a.x, b.x);
      pairs.y = pack<kBf16>(a.y, b.y);
      pairs.z = pack<kBf16>(a.z, b.z);
      pairs.w = pack<kBf16>(a.w, b.w);
      *reinterpret_cast<uint4*>(words) = pairs;
    }
    sync_threads();
    // The whole warp leaves out tiles that none of its rows sees.
    if (block > newest || block + kKeys <= oldest) continue;

    float scores[kKeys / 8][4] = {};
    const int steps = (head_dim + 15) / 16;
    for (int step = 0; step < steps; ++step) {
      const std::uint32_t* words = queries + (warp_row + g) * Layout::kRowWords + step * 8 + t;
      const std::uint32_t a[4] = {words[0], words[8 * Layout::kRowWords], words[4], words[8 * Layout::kRowWords + 4]};
#pragma unroll
      for (int n = 0; n < kKeys / 8; ++n) {
        const std::uint32_t* at = keys + (n * 8 + g) * Layout::kRowWords + step * 8 + t;
        const std::uint32_t b[2] = {at[0], at[4]};
        multiply<kBf16>(scores[n], a, b);
      }
    }

#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float largest = maximum[half];
#pragma unroll
      for (int n = 0; n < kKeys / 8; ++n)
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          float& score = scores[n][2 * half + i];
          const int age = token[half] - (block + n * 8 + 2 * t + i);
          const bool seen = age >= 0 && age < window;
          score = seen ? capped(shape, score * shape.scale) : -INFINITY;
          largest = fmaxf(largest, score);
        }
      largest = fmaxf(largest, shuffle_xor(largest, 1));
      largest = fmaxf(largest, shuffle_xor(largest, 2));
      const float correction = fast_exp(maximum[half] - largest);
      maximum[half] = largest;
      float sum = 0;
#pragma unroll
      for (int n = 0; n < kKeys / 8; ++n)
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          float& score = scores[n][2 * half + i];
          score = fast_exp(score - largest);
          sum += score;
        }
      sum += shuffle_xor(sum, 1);
      sum += shuffle_xor(sum, 2);
      total[half] = fmaf(total[half], correction, sum);
#pragma unroll
      for (int n = 0; n < kDim / 8; ++n) {
        sums[n][2 * half] *= correction;
        sums[n][2 * half + 1] *= correction;
      }
    }

    // The layout of the scores is that of the left operand: two tiles of 8 keys make one of 16.
#pragma unroll
    for (int step = 0; step < kKeys / 16; ++step) {
      const std::uint32_t a[4] = {pack<kBf16>(scores[2 * step][0], scores[2 * step][1]),
                                  pack<kBf16>(scores[2 * step][2], scores[2 * step][3]),
                                  pack<kBf16>(scores[2 * step + 1][0], scores[2 * step + 1][1]),
                                  pack<kBf16>(scores[2 * step + 1][2], scores[2 * step + 1][3])};
#pragma unroll
      for (int n = 0; n < kDim / 8; ++n) {
        const std::uint32_t* at = values + (step * 8 + t) * Layout::kValueWords + n * 8 + g;
        const std::uint32_t b[2] = {at[0], at[4 * Layout::kValueWords]};
        multiply<kBf16>(sums[n], a, b);
      }
    }
  }

#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int row = first_row + g + 8 * half;
    if (row >= tile.n_rows) continue;
    const float inverse = 1.0F / total[half];
    float* target = tile.out + tile.offset(row, shape.ld_out, head_dim);
#pragma unroll
    for (int n = 0; n < kDim / 8; ++n)
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const int column = n * 8 + 2 * t + i;
        if (column < head_dim) target[column] = sums[n][2 * half + i] * inverse;
      }
  }
}

template <int kDim, int kKeys, bool kBf16>
void attend(Native& native, const AttentionShape& shape, bool vectors, const float* q, const float* k, const float* v,
            float* out) {
  const std::int64_t tiles = core::ceil_div(shape.n_tokens * (shape.n_heads / shape.n_kv_heads), kRows);
  launch(native, attention_16<kDim, kKeys, kBf16>, grid_of(tiles * shape.n_sequences * shape.n_kv_heads),
         dim3(kNnThreads), AttentionShared<kDim, kKeys>::kBytes, shape, vectors, q, k, v, out);
}

template <bool kBf16>
void attend(Native& native, const AttentionShape& shape, bool vectors, const float* q, const float* k, const float* v,
            float* out) {
  if (shape.head_dim <= 64)
    attend<64, 64, kBf16>(native, shape, vectors, q, k, v, out);
  else if (shape.head_dim <= 128)
    attend<128, 32, kBf16>(native, shape, vectors, q, k, v, out);
  else
    attend<256, 32, kBf16>(native, shape, vectors, q, k, v, out);
}

}  // namespace

bool check_attention(const AttentionShape& shape) {
  VORONOI_REQUIRE(shape.n_kv_heads > 0 && shape.n_heads % shape.n_kv_heads == 0,
                  "query heads must be a multiple of key heads");
  if (shape.head_dim > 256)
    throw core::DeviceError("attention on the GPU takes heads of up to 256, not " + std::to_string(shape.head_dim) +
                            ": compute on the CPU (--device cpu)");
  if (shape.n_sequences <= 0 || shape.n_tokens <= 0) return false;
  VORONOI_REQUIRE(shape.n_past + shape.n_tokens <= (std::int64_t{1} << 30) / (shape.n_heads / shape.n_kv_heads),
                  "rows of a sequence are counted in 32 bits");
  return true;
}

bool vector_loads(const AttentionShape& shape, std::initializer_list<const float*> arrays) {
  return std::all_of(arrays.begin(), arrays.end(), aligned_16) && shape.ld_q % 4 == 0 && shape.ld_kv % 4 == 0 &&
         shape.head_dim % 4 == 0;
}

void attention(const Exec& exec, const AttentionShape& shape, const float* q, const float* k, const float* v,
               float* out) {
  if (!check_attention(shape)) return;
  Native& gpu = native(exec);
  const bool vectors = vector_loads(shape, {q, k, v});
  if (shape.compute == core::DType::bf16)
    attend<true>(gpu, shape, vectors, q, k, v, out);
  else if (shape.compute == core::DType::f16)
    attend<false>(gpu, shape, vectors, q, k, v, out);
  else
    attention_f32(gpu, shape, vectors, q, k, v, out);
}

}  // namespace voronoi::kernels::gpu
