// bf16 products: the order of kernels/cpu/bf16.h, written out here once more, against every unit that this machine has.
#include "kernels/cpu/bf16.h"

#include <gtest/gtest.h>
#include <hwy/targets.h>

#include <array>
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <random>
#include <vector>

#include "core/thread_pool.h"
#include "kernels/cpu/attention_bf16.h"
#include "kernels/kernels.h"
#include "support/skip.h"

namespace voronoi::kernels {
namespace {

constexpr float kNormal = 0x1p-126F;

std::size_t bf16_at(std::int64_t i) { return static_cast<std::size_t>(i); }

float without_subnormal(float value) { return std::fabs(value) < kNormal ? std::copysign(0.0F, value) : value; }

/// a b + c rounded to 24 bits whatever the exponent, then flushed: a double has room for the exponent.
float chain_step(float a, float b, float c) {
  a = without_subnormal(a), b = without_subnormal(b), c = without_subnormal(c);
  const float result = std::fma(a, b, c);
  if (std::fabs(result) > kNormal || std::isnan(result)) return result;
  const double exact = std::fma(static_cast<double>(a), static_cast<double>(b), static_cast<double>(c));
  const auto rounded = static_cast<float>(exact * 0x1p100);
  return std::fabs(rounded) < kNormal * 0x1p100F ? std::copysign(0.0F, result) : result;
}

float sum_step(float a, float b) { return without_subnormal(a + b); }

/// Element of rows x and y of k bfloat16 values.
float element(std::int64_t k, const float* x, const float* y) {
  float sum = 0;
  for (std::int64_t step = 0; step < k; step += 32) {
    float chain[2] = {0, 0};
    for (std::int64_t p = step; p < step + 32; ++p)
      chain[p % 2] = chain_step(p < k ? x[p] : 0, p < k ? y[p] : 0, chain[p % 2]);
    sum = sum_step(sum, sum_step(chain[0], chain[1]));
  }
  return sum;
}

bool same(float a, float b) {
  return std::isnan(a) ? std::isnan(b) : std::bit_cast<std::uint32_t>(a) == std::bit_cast<std::uint32_t>(b);
}

enum class Kind { normal, any_bits, small };
constexpr std::array<Kind, 3> kKinds{Kind::normal, Kind::any_bits, Kind::small};

/// small: exponents around -63, whose products lie on both sides of the least normal number.
std::vector<float> values_of(Kind kind, std::int64_t n, std::uint32_t seed) {
  std::mt19937 engine(seed);
  std::normal_distribution<float> normal;
  std::vector<float> values(bf16_at(n));
  for (float& value : values) {
    const auto bits = static_cast<std::uint32_t>(engine());
    if (kind == Kind::normal)
      value = normal(engine);
    else
      value =
          std::bit_cast<float>(kind == Kind::any_bits ? bits : (bits & 0x807FFFFFU) | (56 + (bits >> 23) % 16) << 23);
  }
  return values;
}

std::vector<std::uint16_t> bits_of(const std::vector<float>& values) {
  std::vector<std::uint16_t> bits;
  for (const float value : values) bits.push_back(core::float_to_bfloat(value));
  return bits;
}

std::vector<float> rounded(std::vector<float> values) {
  for (float& value : values) value = core::round_to(core::DType::bf16, value);
  return values;
}

std::vector<Bf16Unit> units() {
  std::vector<Bf16Unit> there;
  for (const Bf16Unit unit : {Bf16Unit::tiles, Bf16Unit::vectors, Bf16Unit::portable})
    if (has_bf16_unit(unit)) there.push_back(unit);
  return there;
}

class Bf16 : public ::testing::Test {
 protected:
  /// With the widest vectors, again with AVX2: below it there are no fused multiply-adds.
  template <class Body>
  void at_each_width(const Body& body) {
    body();
    if ((hwy::SupportedTargets() & HWY_AVX3) == 0) return;
    hwy::DisableTargets(HWY_AVX3 | HWY_AVX3_DL);
    hwy::GetChosenTarget().Update(hwy::SupportedTargets());
    body();
    hwy::DisableTargets(0);
    hwy::GetChosenTarget().Update(hwy::SupportedTargets());
  }

  core::ThreadPool pool_{2}, single_pool_{1};
  Exec exec_{&pool_, nullptr}, single_{&single_pool_, nullptr};
};

TEST_F(Bf16, EveryUnitKeepsTheOrder) {
  const std::vector<std::array<std::int64_t, 3>> sizes{{1, 70, 40},   {3, 33, 1},    {4, 65, 64},  {5, 17, 31},
                                                       {37, 50, 100}, {20, 40, 600}, {290, 18, 33}};
  for (const Kind kind : kKinds)
    for (const auto& size : sizes) {
      const std::int64_t m = size[0], n = size[1], k = size[2];
      const std::int64_t lda = k + 3, ldw = k + 1, ldc = n + 2;
      const std::vector<float> a = values_of(kind, m * lda, 1), w = rounded(values_of(kind, n * ldw, 2)),
                               before = values_of(Kind::normal, m * ldc, 3), rounded_a = rounded(a);
      const std::vector<std::uint16_t> bits = bits_of(w);
      std::vector<std::uint16_t> across(bf16_at(k * n));
      for (std::int64_t j = 0; j < n; ++j)
        for (std::int64_t p = 0; p < k; ++p) across[bf16_at(p * n + j)] = bits[bf16_at(j * ldw + p)];
      std::vector<float> expected = before;
      for (std::int64_t i = 0; i < m; ++i)
        for (std::int64_t j = 0; j < n; ++j)
          expected[bf16_at(i * ldc + j)] = element(k, rounded_a.data() + i * lda, w.data() + j * ldw);
      for (const Bf16Unit unit : units())
        at_each_width([&] {
          for (const bool along_k : {true, false})
            for (const float beta : {0.0F, 1.0F}) {
              std::vector<float> c = before;
              const Bf16Operand b{nullptr, along_k ? bits.data() : across.data(), along_k ? ldw : n, along_k};
              cpu_bf16_product(beta == 0.0F ? exec_ : single_,
                               {m, n, k, {a.data(), nullptr, lda, true}, b, beta, c.data(), ldc}, unit);
              for (std::int64_t i = 0; i < m; ++i)
                for (std::int64_t j = 0; j < ldc; ++j) {
                  const float old = before[bf16_at(i * ldc + j)], sum = expected[bf16_at(i * ldc + j)];
                  const float wanted = j >= n || beta == 0.0F ? sum : old + sum;
                  ASSERT_TRUE(same(c[bf16_at(i * ldc + j)], wanted))
                      << "unit " << static_cast<int>(unit) << ", kind " << static_cast<int>(kind) << ", " << m << "x"
                      << n << "x" << k << " at " << i << "," << j << ": " << c[bf16_at(i * ldc + j)] << " not "
                      << wanted;
                }
            }
        });
    }
}

TEST_F(Bf16, SubnormalResultsAreFlushedOnceTheyAreRounded) {
  // 2^-126 - s 2^-152, in a chain: rounded to 24 bits it is 2^-126 for s = 1 and 2, and below it, hence 0, from 3 on,
  // where rounding among subnormals would still give 2^-126.
  for (const Bf16Unit unit : units())
    for (const std::int64_t m : {1, 5})
      for (int s = 1; s <= 8; ++s) {
        std::vector<float> a(bf16_at(m * 32)), w(64 * 32);
        for (std::int64_t i = 0; i < m; ++i) {
          a[bf16_at(i * 32)] = 0x1p-63F;
          a[bf16_at(i * 32 + 2)] = -static_cast<float>(s) * 0x1p-76F;
        }
        for (std::size_t j = 0; j < 64; ++j) w[j * 32] = 0x1p-63F, w[j * 32 + 2] = 0x1p-76F;
        const std::vector<std::uint16_t> bits = bits_of(w);
        std::vector<float> c(bf16_at(m * 64), 7.0F);
        cpu_bf16_product(
            exec_, {m, 64, 32, {a.data(), nullptr, 32, true}, {nullptr, bits.data(), 32, true}, 0, c.data(), 64}, unit);
        for (const float value : c) ASSERT_EQ(value, s < 3 ? kNormal : 0.0F) << static_cast<int>(unit) << " " << s;
      }
}

TEST_F(Bf16, RowsDoNotDependOnTheRowsBesideThem) {
  const std::int64_t m = 70, n = 90;
  for (const std::int64_t k : {40, 1100}) {
    const std::vector<float> a = values_of(Kind::normal, m * k, 4), before = values_of(Kind::normal, m * n, 5);
    const std::vector<std::uint16_t> bits = bits_of(values_of(Kind::normal, n * k, 6));
    const LinalgKernels& linalg = cpu().linalg;
    std::vector<float> whole = before;
    linalg.gemm_16(exec_, m, n, k, a.data(), k, core::DType::bf16, bits.data(), k, 1.0F, whole.data(), n);
    for (const std::int64_t first : {0, 33, 64})
      for (std::int64_t rows = 1; rows <= 6; ++rows) {
        std::vector<float> alone(before.begin() + first * n, before.begin() + (first + rows) * n);
        linalg.gemm_16(single_, rows, n, k, a.data() + first * k, k, core::DType::bf16, bits.data(), k, 1.0F,
                       alone.data(), n);
        EXPECT_TRUE(std::equal(alone.begin(), alone.end(), whole.begin() + first * n)) << rows << " from " << first;
      }
  }
}

TEST_F(Bf16, ColumnsBeyondOneSlabAreRight) {
  // More of B than is packed at a time; B is a shift by one, so that the answer is exact, and so is it the other way.
  const std::int64_t n = 2100, k = 2100, m = 6;
  std::vector<std::uint16_t> shift(bf16_at(n * k));
  for (std::int64_t i = 0; i < k; ++i) shift[bf16_at(i * n + (i + 1) % n)] = core::float_to_bfloat(1);
  const std::vector<float> a = rounded(values_of(Kind::normal, m * k, 7));
  std::vector<float> c(bf16_at(m * n)), back(c.size());
  cpu().linalg.gemm_16_back(exec_, m, n, k, a.data(), k, core::DType::bf16, shift.data(), n, 0.0F, c.data(), n);
  cpu().linalg.gemm_16(exec_, m, n, k, a.data(), k, core::DType::bf16, shift.data(), n, 0.0F, back.data(), n);
  for (std::int64_t r = 0; r < m; ++r)
    for (std::int64_t i = 0; i < k; ++i) {
      ASSERT_EQ(c[bf16_at(r * n + (i + 1) % n)], a[bf16_at(r * k + i)]);
      ASSERT_EQ(back[bf16_at(r * n + i)], a[bf16_at(r * k + (i + 1) % n)]);
    }
}

TEST_F(Bf16, OuterProductsAreThoseOfTurnedOperands) {
  for (const auto& [m, n, k] : {std::array<std::int64_t, 3>{1, 1, 1}, {7, 33, 40}, {70, 50, 300}}) {
    const std::int64_t lda = m + 1, ldb = n + 2, ldc = n + 3;
    const std::vector<float> a = values_of(Kind::normal, k * lda, 10), b = values_of(Kind::normal, k * ldb, 11);
    std::vector<float> turned_a(bf16_at(m * k)), turned_b(bf16_at(n * k));
    for (std::int64_t p = 0; p < k; ++p) {
      for (std::int64_t i = 0; i < m; ++i) turned_a[bf16_at(i * k + p)] = a[bf16_at(p * lda + i)];
      for (std::int64_t j = 0; j < n; ++j) turned_b[bf16_at(j * k + p)] = b[bf16_at(p * ldb + j)];
    }
    std::vector<std::uint16_t> bits(turned_b.size());
    cpu().linalg.round_16(exec_, std::ssize(bits), turned_b.data(), core::DType::bf16, bits.data());
    EXPECT_EQ(bits, bits_of(turned_b));
    std::vector<float> got(bf16_at(m * ldc), 7.0F), expected = got;
    cpu().linalg.gemm_16_outer(exec_, m, n, k, a.data(), lda, b.data(), ldb, core::DType::bf16, got.data(), ldc);
    cpu().linalg.gemm_16(exec_, m, n, k, turned_a.data(), k, core::DType::bf16, bits.data(), k, 0.0F, expected.data(),
                         ldc);
    EXPECT_EQ(got, expected) << m << "x" << n << "x" << k;
  }
}

TEST_F(Bf16, ProductsWithoutDepthAreZero) {
  const std::uint16_t nothing = 0;
  for (const Bf16Unit unit : units())
    for (const std::int64_t m : {1, 6}) {
      std::vector<float> c(bf16_at(m * 40), 3.0F), kept = c;
      const Bf16Operand a{c.data(), nullptr, 0, true}, b{nullptr, &nothing, 0, true};
      cpu_bf16_product(exec_, {m, 40, 0, a, b, 1, kept.data(), 40}, unit);
      EXPECT_EQ(kept, c);
      cpu_bf16_product(exec_, {m, 40, 0, a, b, 0, c.data(), 40}, unit);
      EXPECT_EQ(c, std::vector<float>(c.size()));
    }
}

TEST_F(Bf16, GramSumsBlocksOfRowsInThatOrder) {
  for (const Kind kind : {Kind::normal, Kind::small})
    for (const auto& [n_rows, n] : {std::array<std::int64_t, 2>{1, 1}, {7, 33}, {300, 70}, {2049, 20}, {40, 300}}) {
      const std::int64_t ldx = n + 2;
      const std::vector<float> x = values_of(kind, n_rows * ldx, 8);
      std::vector<double> expected(bf16_at(n * (n + 1) / 2), kind == Kind::normal ? 3.0 : 0.0);
      const std::vector<double> before = expected;
      for (std::int64_t first = 0; first < n_rows; first += kCpuGramRows) {
        const std::int64_t rows = std::min(kCpuGramRows, n_rows - first);
        std::vector<std::vector<float>> columns(bf16_at(n), std::vector<float>(bf16_at(rows)));
        for (std::int64_t i = 0; i < n; ++i)
          for (std::int64_t r = 0; r < rows; ++r)
            columns[bf16_at(i)][bf16_at(r)] = core::round_to(core::DType::bf16, x[bf16_at((first + r) * ldx + i)]);
        for (std::int64_t i = 0; i < n; ++i)
          for (std::int64_t j = 0; j <= i; ++j)
            expected[bf16_at(i * (i + 1) / 2 + j)] +=
                static_cast<double>(element(rows, columns[bf16_at(i)].data(), columns[bf16_at(j)].data()));
      }
      for (const Bf16Unit unit : units()) {
        std::vector<double> sum = before, alone = before;
        cpu_bf16_gram(exec_, n_rows, n, x.data(), ldx, sum.data(), unit);
        cpu_bf16_gram(single_, n_rows, n, x.data(), ldx, alone.data(), unit);
        EXPECT_EQ(sum, expected) << static_cast<int>(unit) << ", " << n_rows << " x " << n;
        EXPECT_EQ(alone, expected);
      }
    }
}

TEST_F(Bf16, AttentionIsThatOfRoundedValuesByEveryUnit) {
  // Sequences longer than a block of keys, windows, heads that fill panels or do not, a cap and sinks.
  struct Case {
    std::int64_t n_sequences, n_tokens, n_heads, n_kv_heads, head_dim, window, n_past;
    float softcap;
    bool sinks;
  };
  for (const Case& of : {Case{1, 300, 2, 1, 64, 0, 0, 0, false}, Case{2, 37, 4, 2, 22, 0, 0, 2.5F, false},
                         Case{1, 290, 2, 2, 40, 100, 0, 0, true}, Case{1, 70, 2, 1, 32, 0, 230, 0, false}}) {
    const std::int64_t q_dim = of.n_heads * of.head_dim, kv_dim = of.n_kv_heads * of.head_dim,
                       n_keys = of.n_past + of.n_tokens;
    const std::vector<float> q = values_of(Kind::normal, of.n_sequences * of.n_tokens * q_dim, 9),
                             k = values_of(Kind::normal, of.n_sequences * n_keys * kv_dim, 10),
                             v = values_of(Kind::normal, of.n_sequences * n_keys * kv_dim, 11), sinks{0.5F, -1.0F};
    AttentionShape shape{of.n_sequences, of.n_tokens, of.n_heads, of.n_kv_heads, of.head_dim, of.window,
                         0.15F,          q_dim,       kv_dim,     q_dim,         of.softcap};
    shape.n_past = of.n_past;
    if (of.sinks) shape.sinks = sinks.data();
    const std::vector<float> rounded_q = rounded(q), rounded_k = rounded(k), rounded_v = rounded(v);
    std::vector<float> expected(q.size());
    cpu().nn.attention(exec_, shape, rounded_q.data(), rounded_k.data(), rounded_v.data(), expected.data());
    shape.compute = core::DType::bf16;
    std::vector<float> first;
    for (const Bf16Unit unit : units())
      at_each_width([&] {
        std::vector<float> out(q.size());
        cpu_bf16_attention(exec_, shape, q.data(), k.data(), v.data(), out.data(), unit);
        // A numerator is off by 2^-9 of itself, and outputs are means of values of order 1.
        for (std::size_t i = 0; i < out.size(); ++i) ASSERT_NEAR(out[i], expected[i], 0.012) << i;
        if (first.empty()) first = out;
        ASSERT_EQ(out, first) << static_cast<int>(unit);
      });
    // The last queries alone: tiles and tasks begin elsewhere.
    if (of.n_sequences > 1) continue;
    AttentionShape last = shape;
    last.n_tokens = 21;
    last.n_past = n_keys - last.n_tokens;
    std::vector<float> of_last(static_cast<std::size_t>(last.n_tokens * q_dim));
    cpu().nn.attention(exec_, last, q.data() + (of.n_tokens - last.n_tokens) * q_dim, k.data(), v.data(),
                       of_last.data());
    EXPECT_TRUE(std::equal(of_last.begin(), of_last.end(), first.end() - last.n_tokens * q_dim));
  }
}

TEST_F(Bf16, ThisMachinesTilesAreUsed) {
  if (!has_bf16_unit(Bf16Unit::tiles)) VORONOI_SKIP_MACHINE("this processor has no tiles of bfloat16");
  EXPECT_EQ(bf16_unit(), Bf16Unit::tiles);
}

}  // namespace
}  // namespace voronoi::kernels
