// A linear packed in GPTVQ's codes: its decoding, and products straight from the indices. Device memory throughout.
#pragma once

#include <cstdint>

#include "core/types.h"
#include "kernels/exec.h"

namespace voronoi::kernels {

/// A quantized linear in device memory, arrays as format::GptvqEncoding lays them out. Row r, stored columns d j .. d j
/// + d - 1 are the centroid `index[r, j]` of the codebook of row group r / group_rows and strip d j / group_columns,
/// times the block scale of row r and block d j / scale_block where there are some. A centroid's value is that of
/// `codebook`, or a byte of `codebook8` times the step, codebook_scale kByteStep rounded to fp32.
struct PackedGptvq {
  std::int64_t out_features = 0, in_features = 0;
  std::int64_t d = 1;                              ///< columns a vector, 1, 2 or 4; divides in and group_columns
  int index_bits = 0;                              ///< log2 k, 1..16
  std::int64_t group_rows = 0, group_columns = 0;  ///< of a codebook; the last ones may be short
  std::int64_t scale_block = 0;                    ///< columns a scale, a multiple of d; 0: there are none
  core::DType dtype = core::DType::f16;            ///< of the 16-bit numbers: f16 or bf16
  const std::uint32_t* indices = nullptr;          ///< [out, packed_words(in / d, index_bits)]
  const std::uint16_t* codebook = nullptr;         ///< [row groups, strips, k, d]; null with bytes
  const std::int8_t* codebook8 = nullptr;          ///< the same
  const std::uint16_t* codebook_scale = nullptr;   ///< [row groups, strips]; null without bytes
  const std::uint32_t* block_codes = nullptr;      ///< [out, packed_words(blocks, 4)]; null: no block scales
  const std::uint16_t* block_grid = nullptr;       ///< [blocks, 2]: base and ratio, the scale of code a is base ratio^a
  const std::uint16_t* perm = nullptr;             ///< [in] stored column -> natural column; null: identity
  /// Numbers in fp32 that are being tuned, in the place of the stored ones: scales of the codebooks where those are
  /// bytes, else the codebooks; null: there are none.
  const float* tuned = nullptr;

  std::int64_t row_groups() const { return core::ceil_div(out_features, group_rows); }
  std::int64_t strips() const { return core::ceil_div(in_features, group_columns); }
  std::int64_t book_size() const { return d << index_bits; }
};

inline constexpr std::int64_t kMaxGptvqTokens = 16;
inline constexpr int kBlockScaleBits = 4;
/// Of the bytes of a codebook, as a share of its scale.
inline constexpr float kByteStep = 1.0F / 127.0F;

/// The scale of a block: base ratio^code, by squares in this order on every device.
inline float block_scale(float base, float ratio, std::uint32_t code) {
  float scale = base, power = ratio;
  for (int bit = 0; bit < kBlockScaleBits; ++bit) {
    if ((code >> bit & 1U) != 0) scale = scale * power;
    power = power * power;
  }
  return scale;
}

struct GptvqKernels {
  /// weight [out, in] row-major, fp32 arithmetic on the stored values as format::decode: the same bits on every device.
  void (*decode_f32)(const Exec&, const PackedGptvq&, float* weight);
  /// The same rounded to the packed linear's 16-bit type.
  void (*decode_16)(const Exec&, const PackedGptvq&, std::uint16_t* weight);
  /// out [n_tokens, out] = x [n_tokens, in] W^T (+ out when accumulate), straight from the indices, 1 <= n_tokens <=
  /// kMaxGptvqTokens; W as decoded, fp32 x and sums in a fixed order.
  void (*fused_matmul)(const Exec&, const PackedGptvq&, std::int64_t n_tokens, const float* x, bool accumulate,
                       float* out);
  /// Adds what d_weight [out, in], the loss's derivative by `weight`, decode_f32's result, means for the tuned numbers:
  /// a scale of bytes gets the sum over its codebook's weights of d_weight times weight / scale, nothing where it is 0;
  /// a centroid that of d_weight times the block scale. The same bits at each call and thread count.
  void (*gradient)(const Exec&, const PackedGptvq&, const float* weight, const float* d_weight, float* d_tuned);
};

}  // namespace voronoi::kernels
