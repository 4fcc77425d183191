// Checks that the formats share. Each returns what is wrong, or nothing.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "core/types.h"

namespace voronoi::format {

/// Extents beyond this are no linear layer; the bound keeps products of a few of them within 63 bits.
inline constexpr std::int64_t kMaxFeatures = std::int64_t{1} << 28;

constexpr bool inside(std::int64_t value, std::int64_t low, std::int64_t high) { return value >= low && value <= high; }

std::string range_problem(std::string_view what, std::int64_t value, std::int64_t low, std::int64_t high);
/// Of out_features, in_features and the type, which are any format's.
std::string matrix_problem(std::int64_t out_features, std::int64_t in_features, core::DType dtype);
std::string size_problem(std::string_view array, std::size_t size, std::int64_t expected);
/// bits of f16 or bf16.
std::string finite_problem(std::string_view array, core::DType dtype, std::span<const std::uint16_t> bits);
/// Empty is the natural order.
std::string perm_problem(std::span<const std::uint16_t> perm, std::int64_t in_features);

/// Of factors of the columns, bits of f16 or bf16, which are finite and above 0. Empty: all are 1.
std::string column_scale_problem(core::DType dtype, std::span<const std::uint16_t> bits, std::int64_t in_features);

/// Largest magnitude of 16-bit numbers; 0 of none.
double largest_magnitude(core::DType dtype, std::span<const std::uint16_t> bits);

}  // namespace voronoi::format
