// A vector row of the matrix (v rows) times a token is a sum of centroids, each times the input at its place: no weight
// is decoded. Centroids are looked up in a book that is widened once a call, padded to a power of two, so that 32 sums
// hold a few places of the row at a time whatever the vector width; they are added in a tree in the end.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/vptq_product.cpp"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
// After highway.h, which sets up the target.
#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <span>
#include <vector>

#include "core/error.h"
#include "core/packing.h"
#include "kernels/cpu/packed.h"
#include "kernels/cpu/scratch.h"
#include "kernels/cpu/vptq_product.h"

#ifndef VORONOI_KERNELS_CPU_VPTQ_PRODUCT_ONCE
#define VORONOI_KERNELS_CPU_VPTQ_PRODUCT_ONCE
namespace voronoi::kernels {
namespace {

using packed::index;

constexpr std::int64_t kSums = 32;              // running sums of a token
constexpr std::int64_t kTokensAtATime = 4;      // that share a look-up
constexpr std::int64_t kProductRowsATask = 16;  // vector rows

/// A book [n, v] widened to rows of `width`, zeros behind v.
std::vector<float> padded_book(core::DType dtype, const std::uint16_t* book, std::int64_t n, std::int64_t v,
                               std::int64_t width) {
  std::vector<float> values = packed::widen(dtype, book, n * v);
  if (v == width || values.empty()) return values;
  std::vector<float> rows(index(n * width));
  for (std::int64_t i = 0; i < n; ++i) std::copy_n(values.data() + i * v, v, rows.data() + i * width);
  return rows;
}

/// codes[i] = value i of a row of n packed ones.
void unpack_codes(std::span<const std::uint32_t> words, int bits, std::span<std::uint32_t> codes) {
  static_assert(std::endian::native == std::endian::little,
                "8 bytes from anywhere in the stream are read as one number");
  const auto* bytes = reinterpret_cast<const unsigned char*>(words.data());
  if (bits == 8) {
    std::copy_n(bytes, codes.size(), codes.begin());
    return;
  }
  if (bits == 16) {
    for (std::size_t i = 0; i < codes.size(); ++i)
      codes[i] = static_cast<std::uint32_t>(bytes[2 * i]) | static_cast<std::uint32_t>(bytes[2 * i + 1]) << 8;
    return;
  }
  const auto mask = static_cast<std::uint32_t>((std::uint64_t{1} << bits) - 1);
  // While 8 bytes are left to be read.
  const std::size_t safe = words.size() < 2 ? 0 : (words.size() - 2) * 32 / static_cast<std::size_t>(bits);
  std::size_t i = 0;
  for (std::size_t bit = 0; i < std::min(safe, codes.size()); ++i, bit += static_cast<std::size_t>(bits)) {
    std::uint64_t value = 0;
    std::memcpy(&value, bytes + bit / 8, sizeof value);
    codes[i] = static_cast<std::uint32_t>(value >> bit % 8) & mask;
  }
  for (; i < codes.size(); ++i) codes[i] = packed::value_at(words.data(), static_cast<std::int64_t>(i), bits);
}

/// What a call works with.
struct VptqProduct {
  VptqProduct(const PackedVptq& linear, std::int64_t tokens, const float* inputs, bool add, float* results)
      : p(linear),
        n_tokens(tokens),
        accumulate(add),
        out(results),
        width(p.v <= 4   ? 4
              : p.v <= 8 ? 8
                         : 16),
        places(kSums / width),
        padded_group(core::ceil_div(p.group_size, places) * places),
        main(padded_book(p.dtype, p.codebook, p.groups << p.main_bits, p.v, width)),
        residual(padded_book(p.dtype, p.residual_codebook, p.residual_bits == 0 ? 0 : p.groups << p.residual_bits, p.v,
                             width)),
        outlier(packed::widen(p.dtype, p.outlier_codebook, p.outlier_size == 0 ? 0 : p.k0 * p.v0)),
        scaled(p.groups * padded_group * width * n_tokens),
        outlier_inputs(index(p.outlier_size * n_tokens)),
        shift(index(n_tokens)) {
    const std::vector<float> scale = packed::widen(p.dtype, p.scale, p.in_features),
                             bias = packed::widen(p.dtype, p.bias, p.in_features);
    for (std::int64_t t = 0; t < n_tokens; ++t) {
      const float* token = inputs + t * p.in_features;
      shift[index(t)] = packed::dot(p.in_features, bias.data(), token);
      const auto scaled_input = [&](std::int64_t stored) {
        const std::int64_t column = p.perm == nullptr ? stored : p.perm[stored];
        return scale[index(column)] * token[column];
      };
      for (std::int64_t j = 0; j < p.outlier_size; ++j) outlier_inputs[index(t * p.outlier_size + j)] = scaled_input(j);
      for (std::int64_t g = 0; g < p.groups; ++g) {
        float* target = scaled.data() + (t * p.groups + g) * padded_group * width;
        for (std::int64_t j = 0; j < padded_group; ++j)
          std::fill_n(target + j * width, width,
                      j < p.group_size ? scaled_input(p.outlier_size + g * p.group_size + j) : 0.0F);
      }
    }
  }

  /// [padded_group, width]: each input as often as a centroid is long.
  const float* inputs(std::int64_t t, std::int64_t g) const {
    return scaled.data() + (t * p.groups + g) * padded_group * width;
  }
  /// Of outlier columns to row `row`.
  float outliers(std::int64_t t, std::int64_t row) const {
    const std::uint16_t* codes = p.outlier_indices + row / p.v0 * p.outlier_size;
    const float* values = outlier_inputs.data() + t * p.outlier_size;
    float sum = 0;
    for (std::int64_t j = 0; j < p.outlier_size; ++j) sum += outlier[index(codes[j] * p.v0 + row % p.v0)] * values[j];
    return sum;
  }
  /// The rows of vector row r for token t: `sums` [kSums] are used up.
  void finish(std::int64_t r, std::int64_t t, float* sums) const {
    for (std::int64_t half = kSums / 2; half >= width; half /= 2)
      for (std::int64_t i = 0; i < half; ++i) sums[i] += sums[i + half];
    const std::int64_t first = r * p.v, n = std::min(p.v, p.out_features - first);
    for (std::int64_t i = 0; i < n; ++i) {
      float value = sums[i] + shift[index(t)];
      if (p.outlier_size > 0) value += outliers(t, first + i);
      float& target = out[t * p.out_features + first + i];
      target = accumulate ? target + value : value;
    }
  }

  const PackedVptq& p;
  std::int64_t n_tokens;
  bool accumulate;
  float* out;
  std::int64_t width;         ///< of a centroid: 4, 8 or 16
  std::int64_t places;        ///< of a row whose sums stand beside each other
  std::int64_t padded_group;  ///< stored columns of a group, in whole sets of places
  std::vector<float> main, residual, outlier;
  Scratch<float> scaled;
  std::vector<float> outlier_inputs, shift;
};

}  // namespace
}  // namespace voronoi::kernels
#endif

HWY_BEFORE_NAMESPACE();
namespace voronoi::kernels::HWY_NAMESPACE {
namespace {
namespace hn = hwy::HWY_NAMESPACE;

using ProductTag = hn::CappedTag<float, 16>;
using ProductVector = hn::Vec<ProductTag>;
constexpr std::int64_t kProductLanes = static_cast<std::int64_t>(hn::MaxLanes(ProductTag()));
constexpr std::size_t kProductVectors = kSums / kProductLanes;

/// Centroids beside each other, those of codes[0], codes[1] ..: kWidth values of each.
template <std::int64_t kWidth, class D>
HWY_INLINE hn::Vec<D> centroids(D d, const float* book, const std::uint32_t* codes, int shift, std::uint32_t mask) {
  [[maybe_unused]] constexpr auto kLanes = static_cast<std::int64_t>(hn::MaxLanes(D()));
#if HWY_TARGET != HWY_SCALAR
  if constexpr (kLanes > kWidth) {
    const hn::Half<D> half;
    return hn::Combine(d, centroids<kWidth>(half, book, codes + kLanes / kWidth / 2, shift, mask),
                       centroids<kWidth>(half, book, codes, shift, mask));
  }
#endif
  return hn::LoadU(d, book + static_cast<std::int64_t>(codes[0] >> shift & mask) * kWidth);
}

/// Tokens [first, first + kTokens) with a vector row.
template <std::int64_t kWidth, bool kResidual, std::size_t kTokens>
void multiply_row(const VptqProduct& x, std::int64_t r, std::int64_t first, const std::uint32_t* codes) {
  const ProductTag d;
  constexpr std::int64_t kPlaces = kSums / kWidth;
  const PackedVptq& p = x.p;
  const auto main_mask = static_cast<std::uint32_t>((std::uint64_t{1} << p.main_bits) - 1);
  ProductVector sums[kTokens][kProductVectors];
  for (auto& token : sums)
    for (ProductVector& sum : token) sum = hn::Zero(d);
  for (std::int64_t g = 0; g < p.groups; ++g, codes += x.padded_group) {
    const float* main = x.main.data() + (g << p.main_bits) * kWidth;
    const float* residual = kResidual ? x.residual.data() + (g << p.residual_bits) * kWidth : nullptr;
    const float* inputs[kTokens];
    for (std::size_t t = 0; t < kTokens; ++t) inputs[t] = x.inputs(first + static_cast<std::int64_t>(t), g);
    for (std::int64_t j = 0; j < x.padded_group; j += kPlaces)
      for (std::size_t part = 0; part < kProductVectors; ++part) {
        // A vector holds whole centroids, or is a part of one.
        const std::int64_t first_sum = static_cast<std::int64_t>(part) * kProductLanes, offset = first_sum % kWidth;
        const std::uint32_t* here = codes + j + first_sum / kWidth;
        ProductVector values = centroids<kWidth>(d, main + offset, here, 0, main_mask);
        if constexpr (kResidual)
          values = hn::Add(values, centroids<kWidth>(d, residual + offset, here, p.main_bits, ~std::uint32_t{0}));
        for (std::size_t t = 0; t < kTokens; ++t)
          sums[t][part] = hn::MulAdd(values, hn::LoadU(d, inputs[t] + j * kWidth + first_sum), sums[t][part]);
      }
  }
  for (std::size_t t = 0; t < kTokens; ++t) {
    HWY_ALIGN float added[kSums];
    for (std::size_t part = 0; part < kProductVectors; ++part)
      hn::Store(sums[t][part], d, added + static_cast<std::int64_t>(part) * kProductLanes);
    x.finish(r, first + static_cast<std::int64_t>(t), added);
  }
}

using MultiplyRow = void (*)(const VptqProduct&, std::int64_t, std::int64_t, const std::uint32_t*);

template <std::int64_t kWidth, bool kResidual>
constexpr std::array<MultiplyRow, kTokensAtATime> kMultiplyRow{
    multiply_row<kWidth, kResidual, 1>, multiply_row<kWidth, kResidual, 2>, multiply_row<kWidth, kResidual, 3>,
    multiply_row<kWidth, kResidual, 4>};

template <std::int64_t kWidth>
const std::array<MultiplyRow, kTokensAtATime>& for_residual(bool residual) {
  return residual ? kMultiplyRow<kWidth, true> : kMultiplyRow<kWidth, false>;
}

void vptq_product(const Exec& exec, const VptqProduct& x) {
  const PackedVptq& p = x.p;
  const bool residual = p.residual_bits > 0;
  const std::array<MultiplyRow, kTokensAtATime>& multiply = x.width == 4   ? for_residual<4>(residual)
                                                            : x.width == 8 ? for_residual<8>(residual)
                                                                           : for_residual<16>(residual);
  const int bits = p.main_bits + p.residual_bits;
  const std::int64_t vector_rows = core::ceil_div(p.out_features, p.v), words = core::packed_words(p.group_size, bits);
  exec.pool->parallel_for(core::ceil_div(vector_rows, kProductRowsATask), [&](std::int64_t task) {
    std::vector<std::uint32_t> codes(index(p.groups * x.padded_group));  // zeros where padded
    const std::int64_t end = std::min(vector_rows, (task + 1) * kProductRowsATask);
    for (std::int64_t r = task * kProductRowsATask; r < end; ++r) {
      for (std::int64_t g = 0; g < p.groups; ++g)
        unpack_codes({p.indices + (g * vector_rows + r) * words, index(words)}, bits,
                     std::span(codes).subspan(index(g * x.padded_group), index(p.group_size)));
      for (std::int64_t t = 0; t < x.n_tokens; t += kTokensAtATime)
        multiply[index(std::min(kTokensAtATime, x.n_tokens - t) - 1)](x, r, t, codes.data());
    }
  });
}

}  // namespace
}  // namespace voronoi::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace voronoi::kernels {

HWY_EXPORT(vptq_product);

void cpu_vptq_product(const Exec& exec, const PackedVptq& packed, std::int64_t n_tokens, const float* x,
                      bool accumulate, float* out) {
  VORONOI_REQUIRE(n_tokens >= 1 && n_tokens <= kMaxVptqTokens && fused_length(packed),
                  "a fused product has 1 to 16 tokens and vectors of 4, 6, 8, 12 or 16");
  HWY_DYNAMIC_DISPATCH(vptq_product)(exec, VptqProduct(packed, n_tokens, x, accumulate, out));
}

}  // namespace voronoi::kernels
#endif
