// Linears packed in VPTQ's public layout: a vector row (v rows of the matrix) is decoded at a time, into a stripe that
// stays in cache, and either written out or multiplied at once.
#include <algorithm>
#include <vector>

#include "core/error.h"
#include "core/packing.h"
#include "kernels/cpu/packed.h"
#include "kernels/kernels.h"

namespace voronoi::kernels {
namespace {

using packed::dot;
using packed::index;
using packed::widen;

/// One group's columns of v rows: stripe [v, in]. kLength > 0 fixes v at compile time.
template <int kLength, bool kResidual>
void fill_stripe(std::int64_t length_or_zero, const std::vector<std::uint32_t>& codes, int bits, const float* main,
                 const float* residual, const std::int32_t* columns, std::int64_t in_features, float* stripe) {
  const std::int64_t v = kLength > 0 ? kLength : length_or_zero;
  const std::uint32_t mask = (std::uint32_t{1} << bits) - 1;
  for (std::size_t j = 0; j < codes.size(); ++j) {
    const float* centroid = main + static_cast<std::int64_t>(codes[j] & mask) * v;
    const float* correction = kResidual ? residual + static_cast<std::int64_t>(codes[j] >> bits) * v : nullptr;
    float* target = stripe + columns[j];
    for (std::int64_t i = 0; i < v; ++i)
      target[i * in_features] = kResidual ? centroid[i] + correction[i] : centroid[i];
  }
}

using FillStripe = decltype(&fill_stripe<0, false>);

template <bool kResidual>
FillStripe stripe_filler(std::int64_t vector_length) {
  switch (vector_length) {
    case 2:
      return fill_stripe<2, kResidual>;
    case 4:
      return fill_stripe<4, kResidual>;
    case 6:
      return fill_stripe<6, kResidual>;
    case 8:
      return fill_stripe<8, kResidual>;
    case 12:
      return fill_stripe<12, kResidual>;
    case 16:
      return fill_stripe<16, kResidual>;
    default:
      return fill_stripe<0, kResidual>;
  }
}

/// What decoding needs of a packed linear, widened once a call.
class Decoder {
 public:
  explicit Decoder(const PackedVptq& packed)
      : p_(packed),
        bits_(packed.main_bits + packed.residual_bits),
        vector_rows_(core::ceil_div(packed.out_features, packed.v)),
        words_(core::packed_words(packed.group_size, bits_)),
        main_(widen(packed.dtype, packed.codebook, packed.groups * main_size())),
        residual_(widen(packed.dtype, packed.residual_codebook, packed.groups * residual_size())),
        outlier_(widen(packed.dtype, packed.outlier_codebook, packed.k0 * packed.v0)),
        scale_(widen(packed.dtype, packed.scale, packed.in_features)),
        bias_(widen(packed.dtype, packed.bias, packed.in_features)),
        columns_(index(packed.in_features)),
        fill_(residual_.empty() ? stripe_filler<false>(packed.v) : stripe_filler<true>(packed.v)) {
    for (std::size_t i = 0; i < columns_.size(); ++i)
      columns_[i] = packed.perm == nullptr ? static_cast<std::int32_t>(i) : packed.perm[i];
  }

  std::int64_t vector_rows() const { return vector_rows_; }

  /// Rows [r v, r v + v) of the matrix, those past its end left out, into stripe [v, in].
  void decode(std::int64_t r, float* stripe) const {
    const std::int64_t n = p_.in_features, first = r * p_.v, rows = std::min(p_.v, p_.out_features - first);
    std::vector<std::uint32_t> codes(index(p_.group_size));
    for (std::int64_t g = 0; g < p_.groups; ++g) {
      core::unpack_row({p_.indices + (g * vector_rows_ + r) * words_, index(words_)}, bits_, codes);
      fill_(p_.v, codes, p_.main_bits, main_.data() + g * main_size(),
            residual_.empty() ? nullptr : residual_.data() + g * residual_size(),
            columns_.data() + p_.outlier_size + g * p_.group_size, n, stripe);
    }
    for (std::int64_t i = 0; i < rows && p_.outlier_size > 0; ++i) {
      const std::int64_t row = first + i;
      const std::uint16_t* codes_of_row = p_.outlier_indices + row / p_.v0 * p_.outlier_size;
      for (std::int64_t c = 0; c < p_.outlier_size; ++c)
        stripe[i * n + columns_[index(c)]] = outlier_[index(codes_of_row[c] * p_.v0 + row % p_.v0)];
    }
    for (std::int64_t i = 0; i < rows; ++i)
      for (std::int64_t c = 0; c < n; ++c) {
        const float scaled = stripe[i * n + c] * scale_[index(c)];
        stripe[i * n + c] = scaled + bias_[index(c)];
      }
  }

 private:
  std::int64_t main_size() const { return p_.v << p_.main_bits; }
  std::int64_t residual_size() const { return p_.residual_bits == 0 ? 0 : p_.v << p_.residual_bits; }

  const PackedVptq& p_;
  int bits_;
  std::int64_t vector_rows_, words_;
  std::vector<float> main_, residual_, outlier_, scale_, bias_;
  std::vector<std::int32_t> columns_;
  FillStripe fill_;
};

/// use(r, first, rows, stripe) for every vector row, over the threads.
template <class Use>
void for_vector_rows(const Exec& exec, const PackedVptq& packed, const Use& use) {
  const Decoder decoder(packed);
  exec.pool->parallel_for(decoder.vector_rows(), [&](std::int64_t r) {
    std::vector<float> stripe(index(packed.v * packed.in_features));
    decoder.decode(r, stripe.data());
    use(r * packed.v, std::min(packed.v, packed.out_features - r * packed.v), stripe.data());
  });
}

void decode_f32(const Exec& exec, const PackedVptq& packed, float* weight) {
  const std::int64_t n = packed.in_features;
  for_vector_rows(exec, packed, [&](std::int64_t first, std::int64_t rows, const float* stripe) {
    std::copy_n(stripe, rows * n, weight + first * n);
  });
}

void decode_16(const Exec& exec, const PackedVptq& packed, std::uint16_t* weight) {
  const std::int64_t n = packed.in_features;
  for_vector_rows(exec, packed, [&](std::int64_t first, std::int64_t rows, const float* stripe) {
    std::transform(stripe, stripe + rows * n, weight + first * n,
                   [&](float value) { return core::to_bits16(packed.dtype, value); });
  });
}

void fused_matmul(const Exec& exec, const PackedVptq& packed, std::int64_t n_tokens, const float* x, bool accumulate,
                  float* out) {
  VORONOI_REQUIRE(n_tokens >= 1 && n_tokens <= kMaxVptqTokens, "a fused product has 1 to 16 tokens");
  const std::int64_t n = packed.in_features;
  for_vector_rows(exec, packed, [&](std::int64_t first, std::int64_t rows, const float* stripe) {
    for (std::int64_t i = 0; i < rows; ++i)
      for (std::int64_t t = 0; t < n_tokens; ++t) {
        float& target = out[t * packed.out_features + first + i];
        const float product = dot(n, stripe + i * n, x + t * n);
        target = accumulate ? target + product : product;
      }
  });
}

}  // namespace

VptqKernels cpu_vptq_kernels() {
  return {.decode_f32 = decode_f32, .decode_16 = decode_16, .fused_matmul = fused_matmul};
}

}  // namespace voronoi::kernels
