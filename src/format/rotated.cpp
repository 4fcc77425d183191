#include "format/rotated.h"

#include "core/types.h"
#include "format/checks.h"

namespace voronoi::format {

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
