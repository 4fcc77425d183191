#include "format/checks.h"

#include <algorithm>
#include <vector>

namespace voronoi::format {

using core::DType;

std::string range_problem(std::string_view what, std::int64_t value, std::int64_t low, std::int64_t high) {
  if (inside(value, low, high)) return {};
  return std::string(what) + " is " + std::to_string(value) + ", not " + std::to_string(low) + ".." +
         std::to_string(high);
}

std::string matrix_problem(std::int64_t out_features, std::int64_t in_features, DType dtype) {
  if (auto problem = range_problem("out_features", out_features, 1, kMaxFeatures); !problem.empty()) return problem;
  if (auto problem = range_problem("in_features", in_features, 1, kMaxFeatures); !problem.empty()) return problem;
  if (dtype != DType::f16 && dtype != DType::bf16)
    return "dtype is " + std::string(core::dtype_name(dtype)) + ", not F16 or BF16";
  return {};
}

std::string size_problem(std::string_view array, std::size_t size, std::int64_t expected) {
  if (static_cast<std::int64_t>(size) == expected) return {};
  return std::string(array) + " has " + std::to_string(size) + " elements where " + std::to_string(expected) +
         " are due";
}

std::string finite_problem(std::string_view array, DType dtype, std::span<const std::uint16_t> bits) {
  const std::uint16_t exponent = dtype == DType::f16 ? 0x7C00 : 0x7F80;
  std::uint16_t any = 0;  // no early exit: the scan of a large codebook is vectorised
  for (const std::uint16_t value : bits) any |= static_cast<std::uint16_t>((value & exponent) == exponent);
  if (any == 0) return {};
  const auto bad = std::find_if(bits.begin(), bits.end(),
                                [exponent](std::uint16_t value) { return (value & exponent) == exponent; });
  return std::string(array) + "[" + std::to_string(bad - bits.begin()) + "] is not finite";
}

std::string perm_problem(std::span<const std::uint16_t> perm, std::int64_t in_features) {
  if (perm.empty()) return {};
  if (auto problem = size_problem("perm", perm.size(), in_features); !problem.empty()) return problem;
  std::vector<bool> seen(perm.size());
  for (std::size_t i = 0; i < perm.size(); ++i) {
    if (perm[i] >= perm.size() || seen[perm[i]])
      return "perm is no permutation: entry " + std::to_string(i) + " is " + std::to_string(perm[i]);
    seen[perm[i]] = true;
  }
  return {};
}

std::string column_scale_problem(DType dtype, std::span<const std::uint16_t> bits, std::int64_t in_features) {
  if (bits.empty()) return {};
  if (auto problem = size_problem("column_scale", bits.size(), in_features); !problem.empty()) return problem;
  if (auto problem = finite_problem("column_scale", dtype, bits); !problem.empty()) return problem;
  const auto bad =
      std::find_if(bits.begin(), bits.end(), [](std::uint16_t value) { return value == 0 || value >= 0x8000; });
  if (bad == bits.end()) return {};
  return "column_scale[" + std::to_string(bad - bits.begin()) + "] is not above 0";
}

double largest_magnitude(DType dtype, std::span<const std::uint16_t> bits) {
  std::uint16_t most = 0;  // magnitudes order like their bits
  for (const std::uint16_t value : bits) most = std::max(most, static_cast<std::uint16_t>(value & 0x7FFFU));
  return static_cast<double>(core::from_bits16(dtype, most));
}

}  // namespace voronoi::format
