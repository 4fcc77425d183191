#include "format/tuned_rotated.h"

#include <algorithm>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

namespace voronoi::format {
namespace {

constexpr std::uint16_t kOne = 0x3C00;  // of F16

bool is_factor(const NamedArray& array) { return array.name == kInFactor || array.name == kOutFactor; }

NamedArray ones(std::string_view name, std::int64_t n) {
  const std::vector<std::uint16_t> values(static_cast<std::size_t>(n), kOne);
  const auto bytes = std::as_bytes(std::span(values));
  return {std::string(name), core::DType::f16, {n}, {bytes.begin(), bytes.end()}};
}

}  // namespace

Encoding with_factors(const Encoding& encoding) {
  Encoding with = encoding;
  NamedArray in = ones(kInFactor, encoding.in_features), out = ones(kOutFactor, encoding.out_features);
  for (NamedArray& array : with.arrays)
    if (is_factor(array)) (array.name == kInFactor ? in : out) = array;
  // The last ones of the formats' fields.
  std::erase_if(with.arrays, is_factor);
  with.arrays.push_back(std::move(in));
  with.arrays.push_back(std::move(out));
  return with;
}

Encoding without_idle_factors(Encoding encoding) {
  std::erase_if(encoding.arrays, [](const NamedArray& array) {
    if (!is_factor(array)) return false;
    std::vector<std::uint16_t> values(array.bytes.size() / sizeof(std::uint16_t));
    std::memcpy(values.data(), array.bytes.data(), array.bytes.size());
    return std::all_of(values.begin(), values.end(), [](std::uint16_t value) { return value == kOne; });
  });
  return encoding;
}

}  // namespace voronoi::format
