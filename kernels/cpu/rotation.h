// What the CPU twins of rotations and of the linears between them share.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "kernels/cpu/scratch.h"
#include "kernels/exec.h"
#include "kernels/rotation.h"

namespace voronoi::kernels::rotation {

/// Vectors that are turned side by side: a cache line of values for each coordinate.
inline constexpr std::int64_t kVectors = 16;

constexpr bool bit_of(const std::uint32_t* bits, std::int64_t i) { return (bits[i / 32] >> (i % 32) & 1U) != 0; }

/// Rows of n values to a panel's lanes and back, some columns at a time: what is written in pieces stays in L1.
inline void to_panel(std::int64_t n_rows, std::int64_t n, const float* rows, std::int64_t ld, float* panel) {
  for (std::int64_t first = 0; first < n; first += kVectors)
    for (std::int64_t lane = 0; lane < n_rows; ++lane)
      for (std::int64_t i = first; i < std::min(n, first + kVectors); ++i)
        panel[i * kVectors + lane] = rows[lane * ld + i];
}
inline void from_panel(std::int64_t n_rows, std::int64_t n, const float* panel, float* rows, std::int64_t ld) {
  for (std::int64_t first = 0; first < n; first += kVectors)
    for (std::int64_t lane = 0; lane < n_rows; ++lane)
      for (std::int64_t i = first; i < std::min(n, first + kVectors); ++i)
        rows[lane * ld + i] = panel[i * kVectors + lane];
}

/// Turns panels [n, kVectors], 64-byte aligned. May be used by several threads.
class Turner {
 public:
  Turner(const Exec& exec, const Rotation& rotation, bool inverse);
  /// spare: as large as the panel where the rotation has a factor.
  void turn(float* panel, float* spare) const;
  /// Values of a spare panel.
  std::int64_t spare_size() const { return r_.order > 1 ? r_.order * r_.block * kVectors : 0; }

 private:
  const Exec& exec_;
  const Rotation& r_;
  bool inverse_;
  float norm_;
  std::vector<float> factor_;  ///< [order, order] of +-1
};

}  // namespace voronoi::kernels::rotation
