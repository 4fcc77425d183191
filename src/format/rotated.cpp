#include "format/rotated.h"

#include "core/types.h"
#include "format/checks.h"

namespace voronoi::format {

std::vector<std::uint32_t> RotatedParts::side_matrix(std::int64_t n, std::span<const std::uint32_t> signs) {
  return signs.empty() ? std::vector<std::uint32_t>() : hadamard_factor(hadamard_plan(n).order);
}

std::vector<float> RotatedParts::widened_factor(std::span<const std::uint16_t> bits) {
  std::vector<float> values;
  for (const std::uint16_t value : bits) values.push_back(core::from_bits16(core::DType::f16, value));
  return values;
}

double largest_factor(std::span<const std::uint16_t> bits) {
  return bits.empty() ? 1 : largest_magnitude(core::DType::f16, bits);
}

std::string factor_problem(const char* array, std::int64_t n, std::span<const std::uint16_t> bits) {
  if (bits.empty()) return {};
  if (auto problem = size_problem(array, bits.size(), n); !problem.empty()) return problem;
  return finite_problem(array, core::DType::f16, bits);
}

std::string signs_problem(const char* array, std::int64_t n, std::span<const std::uint32_t> signs) {
  if (signs.empty()) return {};
  if (auto problem = size_problem(array, signs.size(), sign_words(n)); !problem.empty()) return problem;
  if (n % 32 == 0 || signs.back() >> (n % 32) == 0) return {};
  return std::string(array) + " has bits past the last of " + std::to_string(n);
}

std::string scale_problem(float scale) {
  if (scale >= 0 && scale <= core::kLargestF16) return {};
  return "scale is " + std::to_string(scale) + ", not 0.." + std::to_string(core::kLargestF16);
}

}  // namespace voronoi::format
