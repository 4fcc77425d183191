// Linears packed in GPTVQ's codes: a row is decoded at a time, into a buffer that stays in cache, and either written
// out or multiplied at once.
#include "kernels/gptvq.h"

#include <algorithm>
#include <vector>

#include "core/error.h"
#include "core/packing.h"
#include "kernels/cpu/packed.h"
#include "kernels/kernels.h"

namespace voronoi::kernels {
namespace {

using packed::index;

constexpr std::int64_t kRowsATask = 16;  // rows that share buffers

/// Decodes rows, one after another.
class Decoder {
 public:
  explicit Decoder(const PackedGptvq& packed)
      : p_(packed),
        n_vectors_(packed.in_features / packed.d),
        n_strips_(core::ceil_div(packed.in_features, packed.group_columns)),
        n_blocks_(packed.block_codes == nullptr ? 0 : core::ceil_div(packed.in_features, packed.scale_block)),
        book_size_(packed.d << packed.index_bits),
        grid_(packed::widen(packed.dtype, packed.block_grid, 2 * n_blocks_)),
        books_(index(n_strips_ * book_size_)),
        codes_(index(n_vectors_)),
        block_codes_(index(n_blocks_)),
        stored_(index(packed.perm == nullptr ? 0 : packed.in_features)) {}

  /// Row `row` of the matrix into values [in], natural column order.
  void decode(std::int64_t row, float* values) {
    if (p_.perm == nullptr) return decode_stored(row, values);
    decode_stored(row, stored_.data());
    for (std::int64_t c = 0; c < p_.in_features; ++c) values[p_.perm[c]] = stored_[index(c)];
  }

  /// Stored column order.
  void decode_stored(std::int64_t row, float* stored) {
    enter_group(row / p_.group_rows);
    const std::int64_t words = core::packed_words(n_vectors_, p_.index_bits);
    packed::unpack(p_.indices + row * words, p_.index_bits, n_vectors_, codes_.data());
    switch (p_.d) {
      case 1:
        look_up<1>(stored);
        break;
      case 2:
        look_up<2>(stored);
        break;
      case 4:
        look_up<4>(stored);
        break;
      default:
        VORONOI_REQUIRE(false, "a vector has 1, 2 or 4 columns");
    }
    if (n_blocks_ == 0) return;
    const std::int64_t block_words = core::packed_words(n_blocks_, kBlockScaleBits);
    packed::unpack(p_.block_codes + row * block_words, kBlockScaleBits, n_blocks_, block_codes_.data());
    for (std::int64_t block = 0; block < n_blocks_; ++block) {
      const float scale = block_scale(grid_[index(2 * block)], grid_[index(2 * block + 1)],
                                      static_cast<std::uint32_t>(block_codes_[index(block)]));
      const std::int64_t end = std::min(p_.in_features, (block + 1) * p_.scale_block);
      for (std::int64_t c = block * p_.scale_block; c < end; ++c) stored[c] = stored[c] * scale;
    }
  }

 private:
  /// The books of a row group, widened.
  void enter_group(std::int64_t group) {
    if (group == group_) return;
    group_ = group;
    const std::int64_t first = group * n_strips_ * book_size_;
    if (p_.codebook8 == nullptr && p_.tuned != nullptr) {
      books_.assign(p_.tuned + first, p_.tuned + first + n_strips_ * book_size_);
      return;
    }
    if (p_.codebook8 == nullptr) {
      books_ = packed::widen(p_.dtype, p_.codebook + first, n_strips_ * book_size_);
      return;
    }
    const std::int64_t at = group * n_strips_;
    const std::vector<float> scales = p_.tuned != nullptr ? std::vector<float>(p_.tuned + at, p_.tuned + at + n_strips_)
                                                          : packed::widen(p_.dtype, p_.codebook_scale + at, n_strips_);
    for (std::int64_t strip = 0; strip < n_strips_; ++strip) {
      const float step = scales[index(strip)] * kByteStep;
      const std::int8_t* bytes = p_.codebook8 + first + strip * book_size_;
      float* book = books_.data() + strip * book_size_;
      for (std::int64_t i = 0; i < book_size_; ++i) book[i] = step * static_cast<float>(bytes[i]);
    }
  }

  template <int kD>
  void look_up(float* stored) const {
    const std::int64_t strip_vectors = p_.group_columns / kD;
    for (std::int64_t strip = 0; strip < n_strips_; ++strip) {
      const float* book = books_.data() + strip * book_size_;
      const std::int64_t end = std::min(n_vectors_, (strip + 1) * strip_vectors);
      for (std::int64_t j = strip * strip_vectors; j < end; ++j) {
        const float* centroid = book + static_cast<std::int64_t>(codes_[index(j)]) * kD;
        for (int i = 0; i < kD; ++i) stored[j * kD + i] = centroid[i];
      }
    }
  }

  const PackedGptvq& p_;
  std::int64_t n_vectors_, n_strips_, n_blocks_, book_size_;
  std::int64_t group_ = -1;
  std::vector<float> grid_, books_;
  std::vector<std::int32_t> codes_, block_codes_;
  std::vector<float> stored_;
};

/// use(decoder, row, values) for every row, over the threads; values [in] are room.
template <class Use>
void for_rows(const Exec& exec, const PackedGptvq& packed, const Use& use) {
  exec.pool->parallel_for(core::ceil_div(packed.out_features, kRowsATask), [&](std::int64_t task) {
    Decoder decoder(packed);
    std::vector<float> values(index(packed.in_features));
    const std::int64_t end = std::min(packed.out_features, (task + 1) * kRowsATask);
    for (std::int64_t row = task * kRowsATask; row < end; ++row) use(decoder, row, values.data());
  });
}

void decode_f32(const Exec& exec, const PackedGptvq& packed, float* weight) {
  const std::int64_t n = packed.in_features;
  for_rows(exec, packed, [&](Decoder& decoder, std::int64_t row, float*) { decoder.decode(row, weight + row * n); });
}

void decode_16(const Exec& exec, const PackedGptvq& packed, std::uint16_t* weight) {
  const std::int64_t n = packed.in_features;
  for_rows(exec, packed, [&](Decoder& decoder, std::int64_t row, float* values) {
    decoder.decode(row, values);
    std::transform(values, values + n, weight + row * n,
                   [&](float value) { return core::to_bits16(packed.dtype, value); });
  });
}

void fused_matmul(const Exec& exec, const PackedGptvq& packed, std::int64_t n_tokens, const float* x, bool accumulate,
                  float* out) {
  VORONOI_REQUIRE(n_tokens >= 1 && n_tokens <= kMaxGptvqTokens, "a fused product has 1 to 16 tokens");
  const std::int64_t n = packed.in_features;
  const std::vector<float> stored = packed::stored_order(packed.perm, n_tokens, n, x);
  if (packed.perm != nullptr) x = stored.data();
  for_rows(exec, packed, [&](Decoder& decoder, std::int64_t row, float* values) {
    decoder.decode_stored(row, values);
    for (std::int64_t t = 0; t < n_tokens; ++t) {
      float& target = out[t * packed.out_features + row];
      const float product = packed::dot(n, values, x + t * n);
      target = accumulate ? target + product : product;
    }
  });
}

/// A codebook at a time: no other has its weights.
void gradient(const Exec& exec, const PackedGptvq& p, const float* weight, const float* d_weight, float* d_tuned) {
  const std::int64_t in = p.in_features, n_vectors = in / p.d, n_strips = p.strips(), book_size = p.book_size();
  const std::int64_t n_blocks = p.block_codes == nullptr ? 0 : core::ceil_div(in, p.scale_block);
  const std::int64_t words = core::packed_words(n_vectors, p.index_bits),
                     block_words = core::packed_words(n_blocks, kBlockScaleBits);
  const std::vector<float> grid = packed::widen(p.dtype, p.block_grid, 2 * n_blocks);
  exec.pool->parallel_for(p.row_groups() * n_strips, [&](std::int64_t book) {
    const std::int64_t first_row = book / n_strips * p.group_rows, strip = book % n_strips;
    const std::int64_t end_row = std::min(p.out_features, first_row + p.group_rows);
    const std::int64_t first = strip * p.group_columns, end = std::min(in, first + p.group_columns);
    std::vector<double> sums(index(p.codebook8 != nullptr ? 1 : book_size));
    for (std::int64_t row = first_row; row < end_row; ++row)
      for (std::int64_t stored = first; stored < end; ++stored) {
        const std::int64_t at = row * in + (p.perm == nullptr ? stored : p.perm[stored]);
        if (p.codebook8 != nullptr) {
          sums[0] += static_cast<double>(d_weight[at]) * static_cast<double>(weight[at]);
          continue;
        }
        float scale = 1;
        if (n_blocks > 0) {
          const std::int64_t block = stored / p.scale_block;
          scale = block_scale(grid[index(2 * block)], grid[index(2 * block + 1)],
                              packed::value_at(p.block_codes + row * block_words, block, kBlockScaleBits));
        }
        const std::int64_t code = packed::value_at(p.indices + row * words, stored / p.d, p.index_bits);
        sums[index(code * p.d + stored % p.d)] += static_cast<double>(d_weight[at] * scale);
      }
    if (p.codebook8 != nullptr) {
      if (p.tuned[book] != 0) d_tuned[book] += static_cast<float>(sums[0] / static_cast<double>(p.tuned[book]));
      return;
    }
    for (std::int64_t i = 0; i < book_size; ++i) d_tuned[book * book_size + i] += static_cast<float>(sums[index(i)]);
  });
}

}  // namespace

GptvqKernels cpu_gptvq_kernels() {
  return {.decode_f32 = decode_f32, .decode_16 = decode_16, .fused_matmul = fused_matmul, .gradient = gradient};
}

}  // namespace voronoi::kernels
