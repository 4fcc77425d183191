// Linears with a code a weight on the CPU: a row is decoded at a time, into a buffer that stays in cache, and either
// written out, multiplied, or used for a gradient at once.
//
// Form says what codes mean: Form::Packed, the packed linear; Form::kScales, scales a group; Form(packed), whose
// decode(row, codes, scales, values) multiplies the steps of a row's codes by its scales. With two scales the first is
// that of steps that are not negative.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "core/error.h"
#include "core/packing.h"
#include "kernels/cpu/packed.h"
#include "kernels/kernels.h"
#include "kernels/scalar_codes.h"

namespace voronoi::kernels::scalar {

using packed::index;

inline constexpr std::int64_t kRowsATask = 16;  // rows that share buffers

/// Decodes rows, one after another. column_scale: [in] widened, as all rows share it; empty: all are 1.
template <class Form>
class Decoder {
 public:
  Decoder(const typename Form::Packed& packed, const std::vector<float>& column_scale)
      : p_(packed),
        form_(packed),
        column_scale_(column_scale),
        n_groups_(core::ceil_div(packed.in_features, packed.group_size)),
        codes_(index(packed.in_features)),
        scales_(index(n_scales())),
        stored_(index(packed.perm == nullptr ? 0 : packed.in_features)) {}

  std::int64_t n_scales() const { return Form::kScales * n_groups_; }

  /// Row `row` of the matrix, scale_of(i) being its scales, into values [in], natural column order.
  template <class ScaleOf>
  void decode(std::int64_t row, const ScaleOf& scale_of, float* values) {
    if (p_.perm == nullptr) {
      decode_stored(row, scale_of, values);
    } else {
      decode_stored(row, scale_of, stored_.data());
      for (std::int64_t c = 0; c < p_.in_features; ++c) values[p_.perm[c]] = stored_[index(c)];
    }
    for (std::size_t c = 0; c < column_scale_.size(); ++c) values[c] *= column_scale_[c];
  }
  /// As decode, stored column order, without the column scales.
  template <class ScaleOf>
  void decode_stored(std::int64_t row, const ScaleOf& scale_of, float* stored) {
    packed::unpack(p_.codes + row * core::packed_words(p_.in_features, p_.bits), p_.bits, p_.in_features,
                   codes_.data());
    for (std::int64_t i = 0; i < n_scales(); ++i) scales_[index(i)] = scale_of(i);
    form_.decode(row, codes_.data(), scales_.data(), stored);
  }
  /// [in], for the caller.
  float* spare_row() {
    spare_.resize(index(p_.in_features));
    return spare_.data();
  }
  /// The stored scales of a row.
  auto stored_scales(std::int64_t row) const {
    return
        [this, first = row * n_scales()](std::int64_t i) { return core::from_bits16(p_.dtype, p_.scale[first + i]); };
  }

  /// d_scale [n_scales] of a row += the sums of d_row [in] times column scale times step.
  void add_gradient(std::int64_t row, const float* d_row, float* d_scale) {
    const std::int64_t n = p_.in_features;
    steps_.resize(index(n));
    d_stored_.assign(d_row, d_row + n);
    for (std::size_t c = 0; c < column_scale_.size(); ++c) d_stored_[c] *= column_scale_[c];
    if (p_.perm != nullptr) {
      for (std::int64_t c = 0; c < n; ++c) stored_[index(c)] = d_stored_[p_.perm[c]];
      d_stored_.swap(stored_);
    }
    decode_stored(
        row, [](std::int64_t) { return 1.0F; }, steps_.data());
    for (std::int64_t g = 0; g < n_groups_; ++g) {
      const std::int64_t first = g * p_.group_size, size = std::min(n - first, p_.group_size);
      const float* steps = steps_.data() + first;
      const float* d = d_stored_.data() + first;
      if constexpr (Form::kScales == 1) {
        d_scale[g] += packed::dot(size, d, steps);
      } else {
        part_.resize(index(size));
        std::transform(steps, steps + size, part_.begin(), [](float step) { return std::max(step, 0.0F); });
        d_scale[2 * g] += packed::dot(size, d, part_.data());
        std::transform(steps, steps + size, part_.begin(), [](float step) { return std::min(step, 0.0F); });
        d_scale[2 * g + 1] += packed::dot(size, d, part_.data());
      }
    }
  }

 private:
  const typename Form::Packed& p_;
  Form form_;
  const std::vector<float>& column_scale_;
  std::int64_t n_groups_;
  std::vector<std::int32_t> codes_;
  std::vector<float> scales_, stored_, spare_, d_stored_, steps_, part_;
};

inline std::vector<float> column_scales(const PackedScalars& packed) {
  return packed::widen(packed.dtype, packed.column_scale, packed.in_features);
}

/// use(decoder, row) for every row, over the threads.
template <class Form, class Use>
void for_rows(const Exec& exec, const typename Form::Packed& packed, const Use& use) {
  const std::vector<float> column_scale = column_scales(packed);
  exec.pool->parallel_for(core::ceil_div(packed.out_features, kRowsATask), [&](std::int64_t task) {
    Decoder<Form> decoder(packed, column_scale);
    const std::int64_t end = std::min(packed.out_features, (task + 1) * kRowsATask);
    for (std::int64_t row = task * kRowsATask; row < end; ++row) use(decoder, row);
  });
}

template <class Form>
void decode_f32(const Exec& exec, const typename Form::Packed& packed, float* weight) {
  for_rows<Form>(exec, packed, [&](Decoder<Form>& decoder, std::int64_t row) {
    decoder.decode(row, decoder.stored_scales(row), weight + row * packed.in_features);
  });
}

template <class Form>
void decode_16(const Exec& exec, const typename Form::Packed& packed, std::uint16_t* weight) {
  for_rows<Form>(exec, packed, [&](Decoder<Form>& decoder, std::int64_t row) {
    float* values = decoder.spare_row();
    decoder.decode(row, decoder.stored_scales(row), values);
    std::transform(values, values + packed.in_features, weight + row * packed.in_features,
                   [&](float value) { return core::to_bits16(packed.dtype, value); });
  });
}

template <class Form>
void fused_matmul(const Exec& exec, const typename Form::Packed& packed, std::int64_t n_tokens, const float* x,
                  bool accumulate, float* out) {
  VORONOI_REQUIRE(n_tokens >= 1 && n_tokens <= kMaxScalarTokens, "a fused product has 1 to 16 tokens");
  const std::int64_t n = packed.in_features;
  const std::vector<float> column_scale = column_scales(packed);
  std::vector<float> scaled;
  if (!column_scale.empty()) {
    scaled.assign(x, x + n_tokens * n);
    for (std::int64_t t = 0; t < n_tokens; ++t)
      for (std::int64_t c = 0; c < n; ++c) scaled[index(t * n + c)] *= column_scale[index(c)];
    x = scaled.data();
  }
  const std::vector<float> stored = packed::stored_order(packed.perm, n_tokens, n, x);
  if (packed.perm != nullptr) x = stored.data();
  for_rows<Form>(exec, packed, [&](Decoder<Form>& decoder, std::int64_t row) {
    float* values = decoder.spare_row();
    decoder.decode_stored(row, decoder.stored_scales(row), values);
    for (std::int64_t t = 0; t < n_tokens; ++t) {
      float& target = out[t * packed.out_features + row];
      const float product = packed::dot(n, values, x + t * n);
      target = accumulate ? target + product : product;
    }
  });
}

template <class Form>
void decode_tuned(const Exec& exec, const typename Form::Packed& packed, const float* scale, float* weight) {
  for_rows<Form>(exec, packed, [&](Decoder<Form>& decoder, std::int64_t row) {
    const float* scales = scale + row * decoder.n_scales();
    decoder.decode(
        row, [scales](std::int64_t i) { return scales[i]; }, weight + row * packed.in_features);
  });
}

template <class Form>
void gradient(const Exec& exec, const typename Form::Packed& packed, const float* d_weight, float* d_scale) {
  for_rows<Form>(exec, packed, [&](Decoder<Form>& decoder, std::int64_t row) {
    decoder.add_gradient(row, d_weight + row * packed.in_features, d_scale + row * decoder.n_scales());
  });
}

template <class Form>
ScalarKernels<typename Form::Packed> table() {
  return {.decode_f32 = decode_f32<Form>,
          .decode_16 = decode_16<Form>,
          .fused_matmul = fused_matmul<Form>,
          .decode_tuned = decode_tuned<Form>,
          .gradient = gradient<Form>};
}

}  // namespace voronoi::kernels::scalar
