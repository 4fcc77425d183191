// Linears packed in VPTQ's public layout: a vector row (v rows of the matrix) is decoded at a time, into a stripe that
// stays in cache, and either written out or multiplied at once.
#include <algorithm>
#include <span>
#include <utility>
#include <vector>

#include "core/error.h"
#include "core/packing.h"
#include "kernels/cpu/packed.h"
#include "kernels/cpu/rows.h"
#include "kernels/kernels.h"

namespace voronoi::kernels {
namespace {

using packed::dot;
using packed::index;
using packed::widen;

/// A vector row's codes of one group.
struct GroupCodes {
  std::span<const std::uint32_t> codes;  ///< main | residual << bits, a stored column each
  int bits = 0;
  const std::int32_t* columns = nullptr;  ///< natural column of each

  std::uint32_t main(std::size_t j) const { return codes[j] & ((std::uint32_t{1} << bits) - 1); }
  std::uint32_t residual(std::size_t j) const { return codes[j] >> bits; }
};

/// One group's columns of v rows: stripe [v, in]. kLength > 0 fixes v at compile time.
struct FillStripe {
  template <int kLength, bool kResidual>
  static void run(std::int64_t length_or_zero, const GroupCodes& group, const float* main, const float* residual,
                  std::int64_t in_features, float* stripe) {
    const std::int64_t v = kLength > 0 ? kLength : length_or_zero;
    for (std::size_t j = 0; j < group.codes.size(); ++j) {
      const float* centroid = main + static_cast<std::int64_t>(group.main(j)) * v;
      const float* correction = kResidual ? residual + static_cast<std::int64_t>(group.residual(j)) * v : nullptr;
      float* target = stripe + group.columns[j];
      for (std::int64_t i = 0; i < v; ++i)
        target[i * in_features] = kResidual ? centroid[i] + correction[i] : centroid[i];
    }
  }
};

/// Its transpose: each vector of a stripe is added to its centroids' sums.
struct AddStripe {
  template <int kLength, bool kResidual>
  static void run(std::int64_t length_or_zero, const GroupCodes& group, float* main, float* residual,
                  std::int64_t in_features, const float* stripe) {
    const std::int64_t v = kLength > 0 ? kLength : length_or_zero;
    for (std::size_t j = 0; j < group.codes.size(); ++j) {
      float* sum = main + static_cast<std::int64_t>(group.main(j)) * v;
      float* correction = kResidual ? residual + static_cast<std::int64_t>(group.residual(j)) * v : nullptr;
      const float* source = stripe + group.columns[j];
      for (std::int64_t i = 0; i < v; ++i) {
        sum[i] += source[i * in_features];
        if (kResidual) correction[i] += source[i * in_features];
      }
    }
  }
};

template <class Loop, bool kResidual>
auto for_length(std::int64_t vector_length) {
  switch (vector_length) {
    case 2:
      return Loop::template run<2, kResidual>;
    case 4:
      return Loop::template run<4, kResidual>;
    case 6:
      return Loop::template run<6, kResidual>;
    case 8:
      return Loop::template run<8, kResidual>;
    case 12:
      return Loop::template run<12, kResidual>;
    case 16:
      return Loop::template run<16, kResidual>;
    default:
      return Loop::template run<0, kResidual>;
  }
}

/// The loop for the linear's vector length.
template <class Loop>
auto specialised(const PackedVptq& packed) {
  return packed.residual_bits == 0 ? for_length<Loop, false>(packed.v) : for_length<Loop, true>(packed.v);
}

std::int64_t main_size(const PackedVptq& p) { return p.v << p.main_bits; }  // of one group
std::int64_t residual_size(const PackedVptq& p) { return p.residual_bits == 0 ? 0 : p.v << p.residual_bits; }

/// The numbers of a packed linear, widened once a call.
class Widened {
 public:
  explicit Widened(const PackedVptq& packed)
      : main_(widen(packed.dtype, packed.codebook, packed.groups * main_size(packed))),
        residual_(widen(packed.dtype, packed.residual_codebook, packed.groups * residual_size(packed))),
        outlier_(widen(packed.dtype, packed.outlier_codebook, packed.k0 * packed.v0)),
        scale_(widen(packed.dtype, packed.scale, packed.in_features)),
        bias_(widen(packed.dtype, packed.bias, packed.in_features)),
        tuned_{packed, main_.data(), residual_.data(), outlier_.data(), scale_.data(), bias_.data()} {}
  Widened(const Widened&) = delete;
  Widened& operator=(const Widened&) = delete;
  const TunedVptq& tuned() const { return tuned_; }

 private:
  std::vector<float> main_, residual_, outlier_, scale_, bias_;
  TunedVptq tuned_;
};

/// Vector rows of a linear; its numbers must outlive it.
class Decoder {
 public:
  explicit Decoder(const TunedVptq& tuned)
      : t_(tuned),
        p_(tuned.packed),
        bits_(p_.main_bits + p_.residual_bits),
        vector_rows_(core::ceil_div(p_.out_features, p_.v)),
        words_(core::packed_words(p_.group_size, bits_)),
        columns_(index(p_.in_features)),
        fill_(specialised<FillStripe>(p_)) {
    for (std::size_t i = 0; i < columns_.size(); ++i)
      columns_[i] = p_.perm == nullptr ? static_cast<std::int32_t>(i) : p_.perm[i];
  }

  std::int64_t vector_rows() const { return vector_rows_; }
  /// Rows of the matrix in vector row r.
  std::int64_t rows(std::int64_t r) const { return std::min(p_.v, p_.out_features - r * p_.v); }

  /// use(g, codes) for the groups of vector row r.
  template <class Use>
  void for_groups(std::int64_t r, const Use& use) const {
    std::vector<std::uint32_t> codes(index(p_.group_size));
    for (std::int64_t g = 0; g < p_.groups; ++g) {
      core::unpack_row({p_.indices + (g * vector_rows_ + r) * words_, index(words_)}, bits_, codes);
      use(g, GroupCodes{codes, p_.main_bits, columns_.data() + p_.outlier_size + g * p_.group_size});
    }
  }
  /// use(place in the outlier codebook, place in the stripe) for the outliers of vector row r.
  template <class Use>
  void for_outliers(std::int64_t r, const Use& use) const {
    for (std::int64_t i = 0; i < rows(r) && p_.outlier_size > 0; ++i) {
      const std::int64_t row = r * p_.v + i;
      const std::uint16_t* codes_of_row = p_.outlier_indices + row / p_.v0 * p_.outlier_size;
      for (std::int64_t c = 0; c < p_.outlier_size; ++c)
        use(codes_of_row[c] * p_.v0 + row % p_.v0, i * p_.in_features + columns_[index(c)]);
    }
  }

  /// The centroids, with their residuals, of rows [r v, r v + v) of the matrix into stripe [v, in]. Rows past its end
  /// are of no meaning.
  void look_up(std::int64_t r, float* stripe) const {
    for_groups(r, [&](std::int64_t g, const GroupCodes& group) {
      fill_(p_.v, group, t_.codebook + g * main_size(p_), t_.residual_codebook + g * residual_size(p_), p_.in_features,
            stripe);
    });
    for_outliers(r, [&](std::int64_t place, std::int64_t at) { stripe[at] = t_.outlier_codebook[place]; });
  }
  /// Those rows of the matrix.
  void decode(std::int64_t r, float* stripe) const {
    look_up(r, stripe);
    const std::int64_t n = p_.in_features;
    for (std::int64_t i = 0; i < rows(r); ++i)
      for (std::int64_t c = 0; c < n; ++c) {
        const float scaled = stripe[i * n + c] * t_.scale[c];
        stripe[i * n + c] = scaled + t_.bias[c];
      }
  }

 private:
  const TunedVptq& t_;
  const PackedVptq& p_;
  int bits_;
  std::int64_t vector_rows_, words_;
  std::vector<std::int32_t> columns_;
  decltype(specialised<FillStripe>(std::declval<const PackedVptq&>())) fill_;
};

/// use(first, rows, stripe) for every vector row, over the threads.
template <class Use>
void for_vector_rows(const Exec& exec, const TunedVptq& tuned, const Use& use) {
  const Decoder decoder(tuned);
  exec.pool->parallel_for(decoder.vector_rows(), [&](std::int64_t r) {
    std::vector<float> stripe(index(tuned.packed.v * tuned.packed.in_features));
    decoder.decode(r, stripe.data());
    use(r * tuned.packed.v, decoder.rows(r), stripe.data());
  });
}

void decode_tuned(const Exec& exec, const TunedVptq& tuned, float* weight) {
  const std::int64_t n = tuned.packed.in_features;
  for_vector_rows(exec, tuned, [&](std::int64_t first, std::int64_t rows, const float* stripe) {
    std::copy_n(stripe, rows * n, weight + first * n);
  });
}

void decode_f32(const Exec& exec, const PackedVptq& packed, float* weight) {
  decode_tuned(exec, Widened(packed).tuned(), weight);
}

void decode_16(const Exec& exec, const PackedVptq& packed, std::uint16_t* weight) {
  const std::int64_t n = packed.in_features;
  for_vector_rows(exec, Widened(packed).tuned(), [&](std::int64_t first, std::int64_t rows, const float* stripe) {
    std::transform(stripe, stripe + rows * n, weight + first * n,
                   [&](float value) { return core::to_bits16(packed.dtype, value); });
  });
}

void fused_matmul(const Exec& exec, const PackedVptq& packed, std::int64_t n_tokens, const float* x, bool accumulate,
                  float* out) {
  VORONOI_REQUIRE(n_tokens >= 1 && n_tokens <= kMaxVptqTokens, "a fused product has 1 to 16 tokens");
  const std::int64_t n = packed.in_features;
  for_vector_rows(exec, Widened(packed).tuned(), [&](std::int64_t first, std::int64_t rows, const float* stripe) {
    for (std::int64_t i = 0; i < rows; ++i)
      for (std::int64_t t = 0; t < n_tokens; ++t) {
        float& target = out[t * packed.out_features + first + i];
        const float product = dot(n, stripe + i * n, x + t * n);
        target = accumulate ? target + product : product;
      }
  });
}

/// Where the sums of each array lie in those of a part.
struct SumLayout {
  explicit SumLayout(const PackedVptq& p)
      : residual(p.groups * main_size(p)),
        outlier(residual + p.groups * residual_size(p)),
        scale(outlier + (p.outlier_size > 0 ? p.k0 * p.v0 : 0)),
        bias(scale + p.in_features),
        size(bias + p.in_features) {}
  std::int64_t residual, outlier, scale, bias, size;
};

/// Parts of the vector rows that have sums of their own: a matter of the shape alone, and few enough that making and
/// adding the sums costs less than a pass over the weights.
std::int64_t n_gradient_parts(const PackedVptq& p, std::int64_t vector_rows, std::int64_t n_sums) {
  constexpr std::int64_t kMostParts = 64;
  return std::clamp<std::int64_t>(p.out_features * p.in_features / (2 * n_sums), 1, std::min(kMostParts, vector_rows));
}

/// Adds vector row r's part to the sums; stripe [v, in] is room.
void add_vector_row(const Decoder& decoder, const TunedVptq& tuned, const SumLayout& layout, std::int64_t r,
                    const float* d_weight, float* stripe, float* sums) {
  const PackedVptq& p = tuned.packed;
  const std::int64_t n = p.in_features;
  const float* d_row = d_weight + r * p.v * n;
  decoder.look_up(r, stripe);
  for (std::int64_t i = 0; i < decoder.rows(r); ++i) {
    float *scale = sums + layout.scale, *bias = sums + layout.bias, *value = stripe + i * n;
    for (std::int64_t c = 0; c < n; ++c) {
      const float d = d_row[i * n + c];
      scale[c] += d * value[c];
      bias[c] += d;
      value[c] = d * tuned.scale[c];
    }
  }
  std::fill(stripe + decoder.rows(r) * n, stripe + p.v * n, 0.0F);
  const auto add = specialised<AddStripe>(p);
  decoder.for_groups(r, [&](std::int64_t g, const GroupCodes& group) {
    add(p.v, group, sums + g * main_size(p), sums + layout.residual + g * residual_size(p), n, stripe);
  });
  decoder.for_outliers(r, [&](std::int64_t place, std::int64_t at) { sums[layout.outlier + place] += stripe[at]; });
}

void gradient(const Exec& exec, const TunedVptq& tuned, const float* d_weight, const VptqGradient& sum) {
  const PackedVptq& p = tuned.packed;
  const Decoder decoder(tuned);
  const SumLayout layout(p);
  const std::int64_t n_parts = n_gradient_parts(p, decoder.vector_rows(), layout.size);
  std::vector<std::vector<float>> sums(index(n_parts));
  exec.pool->parallel_for(n_parts, [&](std::int64_t part) {
    std::vector<float> stripe(index(p.v * p.in_features));
    sums[index(part)].resize(index(layout.size));
    const std::int64_t end = decoder.vector_rows() * (part + 1) / n_parts;
    for (std::int64_t r = decoder.vector_rows() * part / n_parts; r < end; ++r)
      add_vector_row(decoder, tuned, layout, r, d_weight, stripe.data(), sums[index(part)].data());
  });
  const auto add_parts = [&](std::int64_t begin, std::int64_t end, float* target) {
    for_row_chunks(exec, end - begin, 1, [&](std::int64_t first, std::int64_t n) {
      for (const std::vector<float>& part : sums)
        for (std::int64_t i = first; i < first + n; ++i) target[i] += part[index(begin + i)];
    });
  };
  add_parts(0, layout.residual, sum.codebook);
  add_parts(layout.residual, layout.outlier, sum.residual_codebook);
  add_parts(layout.outlier, layout.scale, sum.outlier_codebook);
  add_parts(layout.scale, layout.bias, sum.scale);
  add_parts(layout.bias, layout.size, sum.bias);
}

}  // namespace

VptqKernels cpu_vptq_kernels() {
  return {.decode_f32 = decode_f32,
          .decode_16 = decode_16,
          .fused_matmul = fused_matmul,
          .decode_tuned = decode_tuned,
          .gradient = gradient};
}

}  // namespace voronoi::kernels
