// Hadamard matrices for inputs of any size, and rotations made of them and of random signs.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "kernels/rotation.h"

namespace voronoi::format {

/// What turns n coordinates: H of `order` beside Sylvester's matrix of `block`, n / (order * block) times along the
/// diagonal.
struct HadamardPlan {
  std::int64_t order = 1, block = 1;
  std::int64_t copies = 1;
};

/// Larger matrices that are no powers of two cost more than they mix.
inline constexpr std::int64_t kMaxHadamardOrder = 1024;

/// The least order that is n's odd part times a power of two, divides n, and for which one of the two constructions
/// below is known; where there is none up to kMaxHadamardOrder, the largest power of two that divides n, in copies.
/// n >= 1.
HadamardPlan hadamard_plan(std::int64_t n);

/// H of an order that hadamard_plan chose, as kernels::Rotation::factor has it; empty for order 1. By Paley (On
/// orthogonal matrices, 1933) from the squares of a field of q elements, q a prime, its square or its cube: order q + 1
/// for q = 3 mod 4, else 2 (q + 1) for q = 1 mod 4.
std::vector<std::uint32_t> hadamard_factor(std::int64_t order);

/// Words of n sign bits.
constexpr std::int64_t sign_words(std::int64_t n) { return (n + 31) / 32; }

/// Of n coordinates without its arrays.
kernels::Rotation rotation_extents(std::int64_t n);

/// A rotation in host memory.
class HostRotation {
 public:
  /// signs: [sign_words(n)].
  HostRotation(std::int64_t n, std::span<const std::uint32_t> signs);
  /// Lives as long as this.
  kernels::Rotation view() const;
  const std::vector<std::uint32_t>& signs() const { return signs_; }

 private:
  std::int64_t n_;
  std::vector<std::uint32_t> signs_, factor_;
};

}  // namespace voronoi::format
