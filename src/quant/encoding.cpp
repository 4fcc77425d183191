#include "quant/encoding.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <string_view>

#include "core/error.h"
#include "core/packing.h"
#include "quant/footprint.h"

namespace voronoi::quant {
namespace {

using core::ceil_div;
using core::DType;

// Extents beyond this are no linear layer; the bound keeps every product below within 63 bits.
constexpr std::int64_t kMaxFeatures = std::int64_t{1} << 28;
constexpr std::int64_t kMaxVectorLength = 1 << 12;
constexpr std::int64_t kMaxCodebook = 1 << 16;

bool is_power_of_two(std::int64_t value) { return value > 0 && std::has_single_bit(static_cast<std::uint64_t>(value)); }
int total_bits(const VqEncoding& e) { return e.main_bits() + e.residual_bits(); }
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
  // Without outliers nothing reads the extents of their codebook, but products of them are formed.
  const std::int64_t least = e.outlier_size > 0 ? 1 : 0;
  if (!inside(e.outlier_vector_length, least, kMaxVectorLength))
    return out_of("outlier_vector_length", e.outlier_vector_length, least, kMaxVectorLength);
  if (!inside(e.outlier_centroids, least, kMaxCodebook))
    return out_of("outlier_centroids", e.outlier_centroids, least, kMaxCodebook);
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

void decode(const VqEncoding& e, std::span<float> weight) {
  core::ThreadPool alone(1);
  kernels::cpu().dequant.decode_f32({&alone, nullptr}, packed_view(e), weight.data());
}

void decode(const UniformEncoding& e, std::span<float> weight) {
  const std::int64_t n_groups = group_count(e), code_words = core::packed_words(e.in_features, e.bits),
                     zero_words = core::packed_words(n_groups, e.bits);
  std::vector<float> scale(e.scale.size());
  core::convert_to_f32(e.dtype, e.scale.data(), length(e.scale), scale.data());
  std::vector<std::uint32_t> codes(index(e.in_features)), zeros(index(n_groups));
  std::vector<float> values(index(e.in_features));
  for (std::int64_t row = 0; row < e.out_features; ++row) {
    core::unpack_row(std::span(e.codes).subspan(index(row * code_words), index(code_words)), e.bits, codes);
    core::unpack_row(std::span(e.zeros).subspan(index(row * zero_words), index(zero_words)), e.bits, zeros);
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

kernels::PackedLinear packed_view(const VqEncoding& e) {
  const auto pointer = [](const auto& array) { return array.empty() ? nullptr : array.data(); };
  kernels::PackedLinear packed;
  packed.out_features = e.out_features;
  packed.in_features = e.in_features;
  packed.v = e.vector_length;
  packed.main_bits = e.main_bits();
  packed.residual_bits = e.residual_bits();
  packed.groups = e.groups;
  packed.group_size = e.group_size();
  packed.outlier_size = e.outlier_size;
  packed.v0 = e.outlier_vector_length;
  packed.k0 = e.outlier_centroids;
  packed.dtype = e.dtype;
  packed.indices = pointer(e.indices);
  packed.codebook = pointer(e.codebook);
  packed.residual_codebook = pointer(e.residual_codebook);
  packed.outlier_codebook = pointer(e.outlier_codebook);
  packed.outlier_indices = pointer(e.outlier_indices);
  packed.scale = pointer(e.scale);
  packed.bias = pointer(e.bias);
  packed.perm = pointer(e.perm);
  return packed;
}

std::shared_ptr<const kernels::PackedLinear> share_packed(VqEncoding encoding) {
  struct Owner {
    VqEncoding encoding;
    kernels::PackedLinear view;
  };
  const std::string problem = problem_of(encoding);
  VORONOI_REQUIRE(problem.empty(), "an encoding that cannot be decoded: " + problem);
  const auto owner = std::make_shared<Owner>(Owner{std::move(encoding), {}});
  owner->view = packed_view(owner->encoding);
  return {owner, &owner->view};
}

int VqEncoding::main_bits() const { return core::index_bits(centroids); }
int VqEncoding::residual_bits() const { return core::index_bits(residual_centroids); }
std::int64_t VqEncoding::vector_rows() const { return ceil_div(out_features, vector_length); }
std::int64_t VqEncoding::row_words() const { return core::packed_words(group_size(), main_bits() + residual_bits()); }
std::int64_t VqEncoding::outlier_vector_rows() const {
  return outlier_size > 0 ? ceil_div(out_features, outlier_vector_length) : 0;
}

std::string find_problem(const Encoding& encoding) {
  return std::visit([](const auto& e) { return problem_of(e); }, encoding);
}

std::string find_extent_problem(const VqEncoding& encoding) { return extent_problem(encoding); }

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
