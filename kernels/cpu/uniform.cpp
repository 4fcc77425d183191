// Linears packed in uniform codes: a row is decoded at a time, into a buffer that stays in cache, and either written
// out, multiplied, or used for a gradient at once.
#include "kernels/uniform.h"

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

/// codes[i] = value i of the stream, i < n. Runs of 32 values start at a word.
template <int kBits>
void unpack(const std::uint32_t* words, std::int64_t n, std::int32_t* codes) {
  constexpr std::uint32_t kMask = (1U << kBits) - 1U;
  constexpr int kRun = 32;
  const auto value_of = [&words](int i) {
    const int word = i * kBits / 32, shift = i * kBits % 32;
    std::uint32_t value = words[word] >> shift;
    if (shift + kBits > 32) value |= words[word + 1] << (32 - shift);
    return static_cast<std::int32_t>(value & kMask);
  };
  for (; n >= kRun; n -= kRun, words += kBits, codes += kRun)
    for (int i = 0; i < kRun; ++i) codes[i] = value_of(i);
  for (int i = 0; i < n; ++i) codes[i] = value_of(i);
}

using Unpack = decltype(&unpack<1>);

Unpack unpacker(int bits) {
  constexpr Unpack kUnpackers[] = {unpack<1>,  unpack<2>,  unpack<3>,  unpack<4>,  unpack<5>,  unpack<6>,
                                   unpack<7>,  unpack<8>,  unpack<9>,  unpack<10>, unpack<11>, unpack<12>,
                                   unpack<13>, unpack<14>, unpack<15>, unpack<16>};
  VORONOI_REQUIRE(bits >= 1 && bits <= 16, "a uniform code has 1 to 16 bits");
  return kUnpackers[bits - 1];
}

/// Decodes rows, one after another.
class Decoder {
 public:
  explicit Decoder(const PackedUniform& packed)
      : p_(packed),
        unpack_(unpacker(packed.bits)),
        n_groups_(core::ceil_div(packed.in_features, packed.group_size)),
        codes_(index(packed.in_features)),
        zeros_(index(n_groups_)),
        stored_(index(packed.perm == nullptr ? 0 : packed.in_features)) {}

  std::int64_t n_groups() const { return n_groups_; }
  /// The stored scale of group g of a row.
  float scale(std::int64_t row, std::int64_t g) const {
    return core::from_bits16(p_.dtype, p_.scale[row * n_groups_ + g]);
  }

  /// Row `row` of the matrix, scale_of(g) being its scales, into values [in], natural column order.
  template <class ScaleOf>
  void decode(std::int64_t row, const ScaleOf& scale_of, float* values) {
    if (p_.perm == nullptr) return decode_stored(row, scale_of, values);
    decode_stored(row, scale_of, stored_.data());
    for (std::int64_t c = 0; c < p_.in_features; ++c) values[p_.perm[c]] = stored_[index(c)];
  }
  void decode(std::int64_t row, float* values) {
    decode(
        row, [&](std::int64_t g) { return scale(row, g); }, values);
  }

  /// d_scale [n_groups] of a row += the sums over its groups of d_row [in] times (code - zero).
  void add_gradient(std::int64_t row, const float* d_row, float* d_scale) {
    steps_.resize(index(p_.in_features));
    decode_stored(
        row, [](std::int64_t) { return 1.0F; }, steps_.data());
    for (std::int64_t c = 0; p_.perm != nullptr && c < p_.in_features; ++c) stored_[index(c)] = d_row[p_.perm[c]];
    const float* d_stored = p_.perm == nullptr ? d_row : stored_.data();
    for (std::int64_t g = 0; g < n_groups_; ++g) {
      const std::int64_t first = g * p_.group_size, end = std::min(p_.in_features, first + p_.group_size);
      d_scale[g] += packed::dot(end - first, d_stored + first, steps_.data() + first);
    }
  }

 private:
  /// Stored column order.
  template <class ScaleOf>
  void decode_stored(std::int64_t row, const ScaleOf& scale_of, float* stored) {
    unpack_(p_.codes + row * core::packed_words(p_.in_features, p_.bits), p_.in_features, codes_.data());
    unpack_(p_.zeros + row * core::packed_words(n_groups_, p_.bits), n_groups_, zeros_.data());
    for (std::int64_t g = 0; g < n_groups_; ++g) {
      const float scale = scale_of(g);
      const std::int32_t zero = zeros_[index(g)];
      const std::int64_t end = std::min(p_.in_features, (g + 1) * p_.group_size);
      for (std::int64_t c = g * p_.group_size; c < end; ++c)
        stored[c] = scale * static_cast<float>(codes_[index(c)] - zero);
    }
  }

  const PackedUniform& p_;
  Unpack unpack_;
  std::int64_t n_groups_;
  std::vector<std::int32_t> codes_, zeros_;
  std::vector<float> stored_, steps_;
};

/// use(decoder, row) for every row, over the threads.
template <class Use>
void for_rows(const Exec& exec, const PackedUniform& packed, const Use& use) {
  exec.pool->parallel_for(core::ceil_div(packed.out_features, kRowsATask), [&](std::int64_t task) {
    Decoder decoder(packed);
    const std::int64_t end = std::min(packed.out_features, (task + 1) * kRowsATask);
    for (std::int64_t row = task * kRowsATask; row < end; ++row) use(decoder, row);
  });
}

void decode_f32(const Exec& exec, const PackedUniform& packed, float* weight) {
  for_rows(exec, packed,
           [&](Decoder& decoder, std::int64_t row) { decoder.decode(row, weight + row * packed.in_features); });
}

void decode_tuned(const Exec& exec, const PackedUniform& packed, const float* scale, float* weight) {
  for_rows(exec, packed, [&](Decoder& decoder, std::int64_t row) {
    const float* scales = scale + row * decoder.n_groups();
    decoder.decode(
        row, [scales](std::int64_t g) { return scales[g]; }, weight + row * packed.in_features);
  });
}

void gradient(const Exec& exec, const PackedUniform& packed, const float* d_weight, float* d_scale) {
  for_rows(exec, packed, [&](Decoder& decoder, std::int64_t row) {
    decoder.add_gradient(row, d_weight + row * packed.in_features, d_scale + row * decoder.n_groups());
  });
}

void decode_16(const Exec& exec, const PackedUniform& packed, std::uint16_t* weight) {
  for_rows(exec, packed, [&](Decoder& decoder, std::int64_t row) {
    std::vector<float> values(index(packed.in_features));
    decoder.decode(row, values.data());
    std::transform(values.begin(), values.end(), weight + row * packed.in_features,
                   [&](float value) { return core::to_bits16(packed.dtype, value); });
  });
}

void fused_matmul(const Exec& exec, const PackedUniform& packed, std::int64_t n_tokens, const float* x, bool accumulate,
                  float* out) {
  VORONOI_REQUIRE(n_tokens >= 1 && n_tokens <= kMaxUniformTokens, "a fused product has 1 to 16 tokens");
  const std::int64_t n = packed.in_features;
  for_rows(exec, packed, [&](Decoder& decoder, std::int64_t row) {
    std::vector<float> values(index(n));
    decoder.decode(row, values.data());
    for (std::int64_t t = 0; t < n_tokens; ++t) {
      float& target = out[t * packed.out_features + row];
      const float product = packed::dot(n, values.data(), x + t * n);
      target = accumulate ? target + product : product;
    }
  });
}

}  // namespace

UniformKernels cpu_uniform_kernels() {
  return {.decode_f32 = decode_f32,
          .decode_16 = decode_16,
          .fused_matmul = fused_matmul,
          .decode_tuned = decode_tuned,
          .gradient = gradient};
}

}  // namespace voronoi::kernels
