#include "quant/encoding.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <string_view>

#include "core/error.h"
#include "quant/footprint.h"
#include "quant/packing.h"

namespace voronoi::quant {
namespace {

using core::ceil_div;
using core::DType;

// Extents beyond this are no linear layer; the bound keeps every product below within 63 bits.
constexpr std::int64_t kMaxFeatures = std::int64_t{1} << 28;
constexpr std::int64_t kMaxVectorLength = 1 << 12;
constexpr std::int64_t kMaxCodebook = 1 << 16;

int log2_of(std::int64_t power) { return static_cast<int>(std::bit_width(static_cast<std::uint64_t>(power))) - 1; }
bool is_power_of_two(std::int64_t value) { return value > 0 && std::has_single_bit(static_cast<std::uint64_t>(value)); }
int main_bits(const VqEncoding& e) { return log2_of(e.centroids); }
int residual_bits(const VqEncoding& e) { return e.residual_centroids > 0 ? log2_of(e.residual_centroids) : 0; }
int total_bits(const VqEncoding& e) { return main_bits(e) + residual_bits(e); }
std::int64_t vector_rows(const VqEncoding& e) { return ceil_div(e.out_features, e.vector_length); }
std::int64_t group_count(const UniformEncoding& e) { return ceil_div(e.in_features, e.group_size); }

std::size_t index(std::int64_t value) { return static_cast<std::size_t>(value); }
std::int64_t length(const auto& array) { return static_cast<std::int64_t>(array.size()); }

std::string out_of(std::string_view what, std::int64_t value, std::int64_t low, std::int64_t high) {
  return std::string(what) + " is " + std::to_string(value) + ", not " + std::to_string(low) + ".." +
         std::to_string(high);
}

bool inside(std::int64_t value, std::int64_t low, std::int64_t high) { return value >= low && value <= high; }

std::string size_problem(std::string_view array, std::int64_t size, std::int64_t expected) {
  if (size == expected) return {};
  return std::string(array) + " has " + std::to_string(size) + " elements where " + std::to_string(expected) +
         " are due";
}

std::string finite_problem(std::string_view array, DType dtype, const std::vector<std::uint16_t>& bits) {
  const std::uint16_t exponent = dtype == DType::f16 ? 0x7C00 : 0x7F80;
  std::uint16_t any = 0;  // no early exit: the scan of a large codebook is vectorised
  for (const std::uint16_t value : bits) any |= static_cast<std::uint16_t>((value & exponent) == exponent);
  if (any == 0) return {};
  const auto bad = std::find_if(bits.begin(), bits.end(),
                                [exponent](std::uint16_t value) { return (value & exponent) == exponent; });
  return std::string(array) + "[" + std::to_string(bad - bits.begin()) + "] is not finite";
}

std::string perm_problem(const std::vector<std::uint16_t>& perm, std::int64_t in_features) {
  if (perm.empty()) return {};
  if (length(perm) != in_features) return size_problem("perm", length(perm), in_features);
  std::vector<bool> seen(perm.size());
  for (std::size_t i = 0; i < perm.size(); ++i) {
    if (perm[i] >= perm.size() || seen[perm[i]])
      return "perm is no permutation: entry " + std::to_string(i) + " is " + std::to_string(perm[i]);
    seen[perm[i]] = true;
  }
  return {};
}

std::string extent_problem(const VqEncoding& e) {
  if (!inside(e.out_features, 1, kMaxFeatures)) return out_of("out_features", e.out_features, 1, kMaxFeatures);
  if (!inside(e.in_features, 1, kMaxFeatures)) return out_of("in_features", e.in_features, 1, kMaxFeatures);
  if (!inside(e.vector_length, 1, kMaxVectorLength))
    return out_of("vector_length", e.vector_length, 1, kMaxVectorLength);
  if (!inside(e.centroids, 2, kMaxCodebook) || !is_power_of_two(e.centroids))
    return "centroids is " + std::to_string(e.centroids) + ", not a power of two in 2..65536";
  if (e.residual_centroids != 0 &&
      (!inside(e.residual_centroids, 2, e.centroids) || !is_power_of_two(e.residual_centroids)))
    return "residual_centroids is " + std::to_string(e.residual_centroids) +
           ", neither 0 nor a power of two in 2..centroids";
  if (!inside(e.outlier_size, 0, e.in_features - 1))
    return out_of("outlier_size", e.outlier_size, 0, e.in_features - 1);
  if (e.outlier_size > 0) {
    if (!inside(e.outlier_vector_length, 1, kMaxVectorLength))
      return out_of("outlier_vector_length", e.outlier_vector_length, 1, kMaxVectorLength);
    if (!inside(e.outlier_centroids, 1, kMaxCodebook))
      return out_of("outlier_centroids", e.outlier_centroids, 1, kMaxCodebook);
  }
  if (!inside(e.groups, 1, e.in_features - e.outlier_size) || (e.in_features - e.outlier_size) % e.groups != 0)
    return "groups is " + std::to_string(e.groups) + " and does not divide the " +
           std::to_string(e.in_features - e.outlier_size) + " columns that are no outliers";
  if (e.dtype != DType::f16 && e.dtype != DType::bf16)
    return "dtype is " + std::string(core::dtype_name(e.dtype)) + ", not F16 or BF16";
  return {};
}

std::string problem_of(const VqEncoding& e) {
  if (auto problem = extent_problem(e); !problem.empty()) return problem;
  const VqElements due = elements_due(e, !e.perm.empty());
  for (const std::string& problem :
       {size_problem("indices", length(e.indices), due.indices),
        size_problem("codebook", length(e.codebook), due.codebook),
        size_problem("residual_codebook", length(e.residual_codebook), due.residual_codebook),
        size_problem("outlier_codebook", length(e.outlier_codebook), due.outlier_codebook),
        size_problem("outlier_indices", length(e.outlier_indices), due.outlier_indices),
        size_problem("scale", length(e.scale), due.scale), size_problem("bias", length(e.bias), due.bias),
        perm_problem(e.perm, e.in_features), finite_problem("codebook", e.dtype, e.codebook),
        finite_problem("residual_codebook", e.dtype, e.residual_codebook),
        finite_problem("outlier_codebook", e.dtype, e.outlier_codebook), finite_problem("scale", e.dtype, e.scale),
        finite_problem("bias", e.dtype, e.bias)})
    if (!problem.empty()) return problem;
  for (std::size_t i = 0; i < e.outlier_indices.size(); ++i)
    if (e.outlier_indices[i] >= e.outlier_centroids)
      return "outlier_indices[" + std::to_string(i) + "] is " + std::to_string(e.outlier_indices[i]) + ", beyond the " +
             std::to_string(e.outlier_centroids) + " outlier centroids";
  return {};
}

std::string problem_of(const UniformEncoding& e) {
  if (!inside(e.out_features, 1, kMaxFeatures)) return out_of("out_features", e.out_features, 1, kMaxFeatures);
  if (!inside(e.in_features, 1, kMaxFeatures)) return out_of("in_features", e.in_features, 1, kMaxFeatures);
  if (!inside(e.bits, 1, 16)) return out_of("bits", e.bits, 1, 16);
  if (!inside(e.group_size, 1, kMaxFeatures)) return out_of("group_size", e.group_size, 1, kMaxFeatures);
  if (e.dtype != DType::f16 && e.dtype != DType::bf16)
    return "dtype is " + std::string(core::dtype_name(e.dtype)) + ", not F16 or BF16";
  const UniformElements due = elements_due(e, !e.perm.empty());
  for (const std::string& problem :
       {size_problem("codes", length(e.codes), due.codes), size_problem("scale", length(e.scale), due.scale),
        size_problem("zeros", length(e.zeros), due.zeros), perm_problem(e.perm, e.in_features),
        finite_problem("scale", e.dtype, e.scale)})
    if (!problem.empty()) return problem;
  return {};
}

/// Widened codebook. Half precision without a branch a value, so that compilers vectorise it: the exponent is moved
/// into place and rebiased by an exact multiplication, which also normalises subnormals. Finite values only (problem_of
/// has looked).
std::vector<float> widen(DType dtype, const std::vector<std::uint16_t>& bits) {
  std::vector<float> values(bits.size());
  const bool half = dtype == DType::f16;
  for (std::size_t i = 0; i < bits.size(); ++i) {
    const std::uint32_t sign = static_cast<std::uint32_t>(bits[i] & 0x8000U) << 16;
    const std::uint32_t rest = bits[i] & 0x7FFFU;
    values[i] =
        half ? std::bit_cast<float>(std::bit_cast<std::uint32_t>(std::bit_cast<float>(rest << 13) * 0x1p112F) | sign)
             : std::bit_cast<float>(sign | rest << 16);
  }
  return values;
}

/// Target column of a stored column.
std::vector<std::int32_t> natural_columns(const std::vector<std::uint16_t>& perm, std::int64_t in_features) {
  std::vector<std::int32_t> columns(index(in_features));
  for (std::size_t i = 0; i < columns.size(); ++i) columns[i] = perm.empty() ? static_cast<std::int32_t>(i) : perm[i];
  return columns;
}

/// One group's columns of v rows: stripe [v, in]. kLength > 0 fixes v at compile time.
template <int kLength, bool kResidual>
void fill_stripe(std::int64_t length_or_zero, std::span<const std::uint32_t> codes, int bits, const float* main,
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

void decode(const VqEncoding& e, std::span<float> weight) {
  const std::int64_t v = e.vector_length, group_size = e.group_size(), n_rows = vector_rows(e);
  const int bits = main_bits(e), all_bits = total_bits(e);
  const std::int64_t words = packed_words(group_size, all_bits);
  const std::vector<float> main = widen(e.dtype, e.codebook), residual = widen(e.dtype, e.residual_codebook);
  const std::vector<float> outlier = widen(e.dtype, e.outlier_codebook), scale = widen(e.dtype, e.scale),
                           bias = widen(e.dtype, e.bias);
  const std::vector<std::int32_t> columns = natural_columns(e.perm, e.in_features);
  const FillStripe fill = e.residual_centroids > 0 ? stripe_filler<true>(v) : stripe_filler<false>(v);
  std::vector<std::uint32_t> codes(index(group_size));
  std::vector<float> stripe(index(v * e.in_features));
  for (std::int64_t r = 0; r < n_rows; ++r) {
    const std::int64_t first_row = r * v, rows = std::min(v, e.out_features - first_row);
    for (std::int64_t g = 0; g < e.groups; ++g) {
      unpack_row(std::span(e.indices).subspan(index((g * n_rows + r) * words), index(words)), all_bits, codes);
      fill(v, codes, bits, main.data() + g * e.centroids * v,
           e.residual_centroids > 0 ? residual.data() + g * e.residual_centroids * v : nullptr,
           columns.data() + e.outlier_size + g * group_size, e.in_features, stripe.data());
    }
    for (std::int64_t i = 0; i < rows && e.outlier_size > 0; ++i) {
      const std::int64_t row = first_row + i, v0 = e.outlier_vector_length;
      const std::uint16_t* indices = e.outlier_indices.data() + row / v0 * e.outlier_size;
      for (std::int64_t p = 0; p < e.outlier_size; ++p)
        stripe[index(i * e.in_features + columns[index(p)])] = outlier[index(indices[p] * v0 + row % v0)];
    }
    for (std::int64_t i = 0; i < rows; ++i) {
      const float* source = stripe.data() + i * e.in_features;
      float* target = weight.data() + (first_row + i) * e.in_features;
      for (std::int64_t c = 0; c < e.in_features; ++c) {
        const float scaled = source[c] * scale[index(c)];
        target[c] = scaled + bias[index(c)];
      }
    }
  }
}

void decode(const UniformEncoding& e, std::span<float> weight) {
  const std::int64_t n_groups = group_count(e), code_words = packed_words(e.in_features, e.bits),
                     zero_words = packed_words(n_groups, e.bits);
  const std::vector<float> scale = widen(e.dtype, e.scale);
  std::vector<std::uint32_t> codes(index(e.in_features)), zeros(index(n_groups));
  std::vector<float> values(index(e.in_features));
  for (std::int64_t row = 0; row < e.out_features; ++row) {
    unpack_row(std::span(e.codes).subspan(index(row * code_words), index(code_words)), e.bits, codes);
    unpack_row(std::span(e.zeros).subspan(index(row * zero_words), index(zero_words)), e.bits, zeros);
    float* target = weight.data() + row * e.in_features;
    float* stored = e.perm.empty() ? target : values.data();
    for (std::int64_t g = 0; g < n_groups; ++g) {
      const float step = scale[index(row * n_groups + g)];
      const auto zero = static_cast<std::int32_t>(zeros[index(g)]);
      const std::int64_t end = std::min(e.in_features, (g + 1) * e.group_size);
      for (std::int64_t c = g * e.group_size; c < end; ++c)
        stored[c] = step * static_cast<float>(static_cast<std::int32_t>(codes[index(c)]) - zero);
    }
    for (std::size_t c = 0; c < e.perm.size(); ++c) target[e.perm[c]] = values[c];
  }
}

}  // namespace

std::string find_problem(const Encoding& encoding) {
  return std::visit([](const auto& e) { return problem_of(e); }, encoding);
}

void decode(const Encoding& encoding, std::span<float> weight) {
  const std::string problem = find_problem(encoding);
  VORONOI_REQUIRE(problem.empty(), "an encoding that cannot be decoded: " + problem);
  VORONOI_REQUIRE(length(weight) == out_features(encoding) * in_features(encoding),
                  "decode needs room for [out_features, in_features]");
  std::visit([weight](const auto& e) { decode(e, weight); }, encoding);
}

std::int64_t out_features(const Encoding& encoding) {
  return std::visit([](const auto& e) { return e.out_features; }, encoding);
}

std::int64_t in_features(const Encoding& encoding) {
  return std::visit([](const auto& e) { return e.in_features; }, encoding);
}

std::int64_t stored_bits(const Encoding& encoding) {
  return std::visit([](const auto& e) { return elements_due(e, !e.perm.empty()).bits(); }, encoding);
}

double nominal_bits(const Encoding& encoding) {
  if (const auto* vq = std::get_if<VqEncoding>(&encoding))
    return static_cast<double>(total_bits(*vq)) / static_cast<double>(vq->vector_length);
  return std::get<UniformEncoding>(encoding).bits;
}

}  // namespace voronoi::quant
