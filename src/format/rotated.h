// What the formats share whose matrices stand between two rotations.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "format/hadamard.h"
#include "kernels/rotation.h"

namespace voronoi::format {

/// The rotation of a side without its factor; of n = 0 where there are no signs. put(array) gives the address where
/// kernels read it.
template <class Put>
kernels::Rotation put_rotation(std::int64_t n, std::span<const std::uint32_t> signs, const Put& put) {
  if (signs.empty()) return {};
  kernels::Rotation rotation = rotation_extents(n);
  rotation.signs = put(signs);
  return rotation;
}

/// What kernels read of a matrix between rotations beside its own arrays. Host memory.
struct RotatedParts {
  /// Of fields with signs and factors of both sides.
  template <class Fields>
  explicit RotatedParts(const Fields& e)
      : in_matrix(side_matrix(e.in_features, e.in_signs)),
        out_matrix(side_matrix(e.out_features, e.out_signs)),
        in_factor(widened_factor(e.in_factor)),
        out_factor(widened_factor(e.out_factor)) {}

  /// put(values) gives the address where kernels read them, null of none.
  template <class Packed, class Put>
  void place(Packed& packed, const Put& put) const {
    packed.in.factor = put(std::span<const std::uint32_t>(in_matrix));
    packed.out.factor = put(std::span<const std::uint32_t>(out_matrix));
    packed.factors = {put(std::span<const float>(in_factor)), put(std::span<const float>(out_factor))};
  }

  std::vector<std::uint32_t> in_matrix, out_matrix;  ///< hadamard_factor() of the sides
  std::vector<float> in_factor, out_factor;          ///< empty: ones

 private:
  static std::vector<std::uint32_t> side_matrix(std::int64_t n, std::span<const std::uint32_t> signs);
  static std::vector<float> widened_factor(std::span<const std::uint16_t> bits);
};

/// Of factors of both sides.
constexpr std::int64_t factor_bits(std::int64_t out_features, std::int64_t in_features) {
  return 16 * (out_features + in_features);
}

/// Largest magnitude of a side's factors; 1 where there are none.
double largest_factor(std::span<const std::uint16_t> bits);

/// Factors of n coordinates, F16, or none: their number, and such as are not finite.
std::string factor_problem(const char* array, std::int64_t n, std::span<const std::uint16_t> bits);

/// Of signs of n coordinates, or none: their number, and bits past the last coordinate.
std::string signs_problem(const char* array, std::int64_t n, std::span<const std::uint32_t> signs);

/// Weights are at most as large as those of F16, and so is their root mean square.
std::string scale_problem(float scale);

}  // namespace voronoi::format
