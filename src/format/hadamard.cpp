#include "format/hadamard.h"

#include <array>
#include <cstddef>
#include <optional>

#include "core/error.h"
#include "core/index.h"

namespace voronoi::format {

using core::index;

namespace {

constexpr int kMaxDegree = 3;

struct FieldSize {
  std::int64_t prime = 0;
  int degree = 0;
};

/// q as the power of a prime, of degree up to kMaxDegree.
std::optional<FieldSize> field_of(std::int64_t q) {
  if (q < 2) return std::nullopt;
  std::int64_t prime = q;
  for (std::int64_t d = 2; d * d <= q; ++d)
    if (q % d == 0) {
      prime = d;
      break;
    }
  int degree = 0;
  for (; q > 1; q /= prime, ++degree)
    if (q % prime != 0) return std::nullopt;
  if (degree > kMaxDegree) return std::nullopt;
  return FieldSize{prime, degree};
}

/// The field's elements are the numbers below q, their digits to the base of the prime the coefficients of polynomials,
/// the lowest first.
class Field {
 public:
  explicit Field(FieldSize size) : prime_(size.prime), degree_(size.degree) {
    for (int i = 0; i < degree_; ++i) q_ *= prime_;
    if (degree_ > 1) find_modulus();
    is_square_.assign(index(q_), false);
    for (std::int64_t a = 1; a < q_; ++a) is_square_[index(square(a))] = true;
  }

  std::int64_t q() const { return q_; }
  std::int64_t minus(std::int64_t a, std::int64_t b) const {
    std::int64_t difference = 0, place = 1;
    for (int i = 0; i < degree_; ++i, a /= prime_, b /= prime_, place *= prime_)
      difference += (a % prime_ - b % prime_ + prime_) % prime_ * place;
    return difference;
  }
  bool is_square(std::int64_t a) const { return is_square_[index(a)]; }

 private:
  using Digits = std::array<std::int64_t, 2 * kMaxDegree>;

  Digits digits(std::int64_t a) const {
    Digits d{};
    for (int i = 0; i < degree_; ++i, a /= prime_) d[index(i)] = a % prime_;
    return d;
  }

  std::int64_t square(std::int64_t a) const {
    const Digits d = digits(a);
    Digits product{};
    for (int i = 0; i < degree_; ++i)
      for (int j = 0; j < degree_; ++j) product[index(i + j)] += d[index(i)] * d[index(j)];
    // x^degree is less the rest of the modulus.
    for (int i = 2 * degree_ - 2; i >= degree_; --i)
      for (int j = 0; j < degree_; ++j)
        product[index(i - degree_ + j)] += (prime_ - modulus_[index(j)]) * (product[index(i)] % prime_);
    std::int64_t value = 0;
    for (int i = degree_ - 1; i >= 0; --i) value = value * prime_ + product[index(i)] % prime_;
    return value;
  }

  /// The first monic polynomial without a root, which has no factor at all, its degree being 2 or 3.
  void find_modulus() {
    for (std::int64_t rest = 1; rest < q_; ++rest) {
      modulus_ = digits(rest);
      bool has_root = false;
      for (std::int64_t x = 0; x < prime_ && !has_root; ++x) {
        std::int64_t value = 1;
        for (int i = degree_ - 1; i >= 0; --i) value = (value * x + modulus_[index(i)]) % prime_;
        has_root = value == 0;
      }
      if (!has_root) return;
    }
  }

  std::int64_t prime_, q_ = 1;
  int degree_;
  Digits modulus_{};  ///< without its leading 1
  std::vector<bool> is_square_;
};

struct Construction {
  FieldSize field;
  bool doubles = false;  ///< the second: for q = 1 mod 4
};

std::optional<Construction> construction_of(std::int64_t order) {
  if (order % 4 != 0) return std::nullopt;
  if (const auto field = field_of(order - 1)) return Construction{*field, false};
  if (order / 2 % 4 != 2) return std::nullopt;
  if (const auto field = field_of(order / 2 - 1)) return Construction{*field, true};
  return std::nullopt;
}

/// Entry (i, j) of the bordered matrix of the field's characters: 0 on the diagonal. Skew but for the border's first
/// column where q = 3 mod 4, else symmetric.
int character(const Field& field, std::int64_t i, std::int64_t j, bool is_skew) {
  if (i == j) return 0;
  if (i == 0) return 1;
  if (j == 0) return is_skew ? -1 : 1;
  return field.is_square(field.minus(i - 1, j - 1)) ? 1 : -1;
}

}  // namespace

HadamardPlan hadamard_plan(std::int64_t n) {
  HadamardPlan plan;
  while (n / plan.block % 2 == 0) plan.block *= 2;
  const std::int64_t odd = n / plan.block;
  if (odd == 1) return plan;
  for (std::int64_t power = 4; power <= plan.block && odd <= kMaxHadamardOrder / power; power *= 2)
    if (construction_of(odd * power)) return {odd * power, plan.block / power, 1};
  plan.copies = odd;
  return plan;
}

std::vector<std::uint32_t> hadamard_factor(std::int64_t order) {
  if (order == 1) return {};
  const auto found = construction_of(order);
  VORONOI_REQUIRE(found.has_value(), "no construction of this order is known");
  const Field field(found->field);
  const std::int64_t words = sign_words(order);
  std::vector<std::uint32_t> bits(index(order * words));
  for (std::int64_t i = 0; i < order; ++i)
    for (std::int64_t j = 0; j < order; ++j) {
      bool is_negative = false;
      if (!found->doubles) {
        is_negative = character(field, i, j, true) < 0;  // and 1 on the diagonal
      } else {
        // 0 becomes (1 -1; -1 -1), and +-1 times (1 1; 1 -1).
        const int value = character(field, i / 2, j / 2, false);
        const bool last = i % 2 != 0 && j % 2 != 0;
        is_negative = value == 0 ? i % 2 != 0 || j % 2 != 0 : (value < 0) != last;
      }
      if (is_negative) bits[index(i * words + j / 32)] |= 1U << (j % 32);
    }
  return bits;
}

kernels::Rotation rotation_extents(std::int64_t n) {
  const HadamardPlan plan = hadamard_plan(n);
  kernels::Rotation rotation;
  rotation.n = n;
  rotation.order = plan.order;
  rotation.block = plan.block;
  return rotation;
}

HostRotation::HostRotation(std::int64_t n, std::span<const std::uint32_t> signs)
    : n_(n), signs_(signs.begin(), signs.end()), factor_(hadamard_factor(hadamard_plan(n).order)) {
  VORONOI_REQUIRE(n >= 1 && std::ssize(signs) == sign_words(n), "a rotation has a sign for each coordinate");
}

kernels::Rotation HostRotation::view() const {
  kernels::Rotation rotation = rotation_extents(n_);
  rotation.factor = factor_.empty() ? nullptr : factor_.data();
  rotation.signs = signs_.data();
  return rotation;
}

}  // namespace voronoi::format
