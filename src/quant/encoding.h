// What a quantized linear is stored as, and how it becomes numbers again.
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <variant>
#include <vector>

#include "backend/device.h"
#include "core/types.h"

namespace voronoi::quant {

/// A named array of raw little-endian elements: the currency between encodings and files.
struct NamedArray {
  std::string name;
  core::DType dtype = core::DType::u8;
  core::Shape shape;
  std::vector<std::byte> bytes;
};

/// Vector quantization in the layout of VPTQ's public checkpoint format: tensors and packing as its VQuantLinear
/// defines them (indices [G, R, P] int32 words holding main | residual << b per column, LSB first; codebooks [G, k*v];
/// scale and bias a column). Natural column order without perm when groups == 1 and outlier_size == 0 ("absorbed"),
/// else stored order with perm.
struct VqEncoding {
  std::int64_t out_features = 0, in_features = 0;
  std::int64_t vector_length = 0, centroids = 0, residual_centroids = 0;  // v, k, kr (0 = none)
  std::int64_t groups = 1, outlier_size = 0, outlier_vector_length = 0, outlier_centroids = 0;
  core::DType dtype = core::DType::f16;
  std::vector<std::uint32_t> indices;            ///< [G, ceil(out/v), ceil(group_size*T/32)]
  std::vector<std::uint16_t> codebook;           ///< [G, k, v] bits of dtype
  std::vector<std::uint16_t> residual_codebook;  ///< [G, kr, v]
  std::vector<std::uint16_t> outlier_codebook;   ///< [k0, v0]
  std::vector<std::uint16_t> outlier_indices;    ///< [ceil(out/v0), outlier_size]
  std::vector<std::uint16_t> scale, bias;        ///< [in], natural column order
  std::vector<std::uint16_t> perm;               ///< [in] or empty: stored column -> natural column
  std::int64_t group_size() const { return (in_features - outlier_size) / groups; }
  bool operator==(const VqEncoding&) const = default;
};

/// Uniform quantization, asymmetric: w = scale * (code - zero), a scale and zero a row and group of columns (in
/// processing order).
struct UniformEncoding {
  std::int64_t out_features = 0, in_features = 0;
  int bits = 0;
  std::int64_t group_size = 0;  ///< columns a group; the last group may be shorter
  core::DType dtype = core::DType::f16;
  std::vector<std::uint32_t> codes;  ///< [out, ceil(in*bits/32)] packed LSB first, processing order
  std::vector<std::uint16_t> scale;  ///< [out, n_groups] bits of dtype
  std::vector<std::uint32_t> zeros;  ///< [out, ceil(n_groups*bits/32)] packed
  std::vector<std::uint16_t> perm;   ///< [in] or empty: processing position -> natural column
  bool operator==(const UniformEncoding&) const = default;
};

using Encoding = std::variant<VqEncoding, UniformEncoding>;

/// What is wrong with the encoding: extents, array sizes, indices and perm out of range, numbers that are not finite.
/// Empty: nothing.
std::string find_problem(const Encoding& encoding);

/// Dense weight [out, in] row-major. fp32 arithmetic on the stored 16-bit values: (main + residual) * scale + bias,
/// each rounded to fp32 once; scale * (code - zero). InternalError when the encoding has a problem or weight another
/// size.
void decode(const Encoding& encoding, std::span<float> weight);
std::int64_t out_features(const Encoding& encoding);
std::int64_t in_features(const Encoding& encoding);

/// All bits that are stored for the linear: packed indices with padding, codebooks, scales, biases, permutation,
/// outliers.
std::int64_t stored_bits(const Encoding& encoding);
/// Index bits a weight alone, as papers quote: (log2 k + log2 kr) / v, or bits.
double nominal_bits(const Encoding& encoding);

/// The same as the kernels take it; points into the encoding.
kernels::PackedLinear packed_view(const VqEncoding& encoding);

/// For files: arrays and attributes; from_arrays checks everything (shapes, ranges of indices and perm) and throws
/// FormatError naming `file`. from_arrays(to_arrays(e)) == e.
std::vector<NamedArray> to_arrays(const Encoding& encoding);
std::map<std::string, std::string> to_attributes(const Encoding& encoding);
Encoding from_arrays(const std::map<std::string, std::string>& attributes, const std::vector<NamedArray>& arrays,
                     const std::string& file);

}  // namespace voronoi::quant
