// prepare_hessian and relative_hessian_error.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "core/error.h"
#include "core/random.h"
#include "quant/layers.h"
#include "quant/quantizer.h"
#include "support/data.h"
#include "support/safetensors_lite.h"

namespace voronoi::quant {
namespace {

using test::lower_triangle;
using testing::ElementsAre;
using testing::HasSubstr;

std::size_t at(std::int64_t n, std::int64_t row, std::int64_t column) {
  return static_cast<std::size_t>(row * n + column);
}

/// Mean of x x^T over `samples` correlated random inputs whose column j is scaled by 1 + j % 7.
std::vector<float> second_moment(std::int64_t n, std::int64_t samples, std::uint64_t seed) {
  const core::CounterRandom random(seed, 1);
  std::vector<double> sum(static_cast<std::size_t>(n * n));
  std::vector<double> x(static_cast<std::size_t>(n));
  for (std::int64_t s = 0; s < samples; ++s) {
    double carry = 0;
    for (std::int64_t j = 0; j < n; ++j) {
      carry = 0.7 * carry + random.uniform(static_cast<std::uint64_t>(s * n + j)) - 0.5;
      x[static_cast<std::size_t>(j)] = carry * static_cast<double>(1 + j % 7);
    }
    for (std::int64_t i = 0; i < n; ++i)
      for (std::int64_t j = 0; j < n; ++j)
        sum[at(n, i, j)] += x[static_cast<std::size_t>(i)] * x[static_cast<std::size_t>(j)];
  }
  std::vector<float> h(sum.size());
  for (std::size_t i = 0; i < h.size(); ++i) h[i] = static_cast<float>(sum[i] / static_cast<double>(samples));
  return h;
}

/// Largest |U^T U (P (H + damping mean I) P^T) - I|, in fp64.
double inverse_residual(const PreparedHessian& p, double mean) {
  const std::int64_t n = p.n;
  std::vector<double> damped(static_cast<std::size_t>(n * n));
  for (std::int64_t i = 0; i < n; ++i)
    for (std::int64_t j = 0; j < n; ++j)
      damped[at(n, i, j)] =
          static_cast<double>(
              p.h.span()[at(n, p.perm[static_cast<std::size_t>(i)], p.perm[static_cast<std::size_t>(j)])]) +
          (i == j && p.damping_steps == 0 ? p.damping * mean : 0);  // h holds a damping that was raised
  double worst = 0;
  for (std::int64_t j = 0; j < n; ++j) {
    std::vector<double> image(static_cast<std::size_t>(n)), back(static_cast<std::size_t>(n));
    for (std::int64_t i = 0; i < n; ++i)
      for (std::int64_t k = i; k < n; ++k)
        image[static_cast<std::size_t>(i)] += static_cast<double>(p.factor.span()[at(n, i, k)]) * damped[at(n, k, j)];
    for (std::int64_t i = 0; i < n; ++i)
      for (std::int64_t k = 0; k <= i; ++k)
        back[static_cast<std::size_t>(i)] +=
            static_cast<double>(p.factor.span()[at(n, k, i)]) * image[static_cast<std::size_t>(k)];
    for (std::int64_t i = 0; i < n; ++i)
      worst = std::max(worst, std::abs(back[static_cast<std::size_t>(i)] - (i == j ? 1 : 0)));
  }
  return worst;
}

double mean_diagonal(std::int64_t n, const std::vector<float>& h) {
  double sum = 0;
  for (std::int64_t i = 0; i < n; ++i) sum += static_cast<double>(h[at(n, i, i)]);
  return sum / static_cast<double>(n);
}

TEST(Hessian, FactorIsThatOfTheInverseInEitherOrder) {
  backend::Context context(backend::Device::cpu, 2);
  for (const std::int64_t n : {1, 2, 63, 150}) {
    const auto h = second_moment(n, 4 * n, 3);
    for (const bool act_order : {false, true}) {
      const auto prepared = prepare_hessian(context, n, lower_triangle(n, h), 0.01, act_order);
      EXPECT_EQ(prepared.h.to_host(), h);
      EXPECT_EQ(prepared.damping, 0.01);
      EXPECT_EQ(prepared.damping_steps, 0);
      EXPECT_EQ(prepared.dead_columns, 0);
      EXPECT_LT(inverse_residual(prepared, mean_diagonal(n, h)), 1e-4) << n;  // fp32 factor, condition number about 1e3
      for (std::int64_t i = 0; i < n; ++i) {
        EXPECT_GT(prepared.factor.span()[at(n, i, i)], 0);
        for (std::int64_t j = 0; j < i; ++j) ASSERT_EQ(prepared.factor.span()[at(n, i, j)], 0);
      }
    }
  }
}

TEST(Hessian, ActOrderFallsAlongTheDiagonalAndTiesKeepTheirOrder) {
  backend::Context context(backend::Device::cpu, 1);
  const std::vector<float> lower{2, 0, 5, 0, 0, 2, 0, 0, 0, 5, 0, 0, 0, 0, 7};
  EXPECT_THAT(prepare_hessian(context, 5, lower, 0.01, true).perm, ElementsAre(4, 1, 3, 0, 2));
  EXPECT_THAT(prepare_hessian(context, 5, lower, 0.01, false).perm, ElementsAre(0, 1, 2, 3, 4));
}

TEST(Hessian, OrderOneIsTheInverseRoot) {
  backend::Context context(backend::Device::cpu, 1);
  const auto prepared = prepare_hessian(context, 1, std::vector<float>{4}, 0.5, true);
  EXPECT_FLOAT_EQ(prepared.factor.span()[0], static_cast<float>(1 / std::sqrt(6.0)));
}

TEST(Hessian, DeadColumnsGetOnePercentOfTheMean) {
  backend::Context context(backend::Device::cpu, 1);
  const auto prepared = prepare_hessian(context, 3, std::vector<float>{4, 0, 0, 1, 0, 5}, 0.01, true);
  EXPECT_EQ(prepared.dead_columns, 1);
  EXPECT_FLOAT_EQ(prepared.h.span()[4], 0.03F);
  EXPECT_THAT(prepared.perm, ElementsAre(2, 0, 1));
  EXPECT_LT(inverse_residual(prepared, 3.0), 1e-6);
}

TEST(Hessian, InputsThatWereNeverSeenMakeItThePlainMetric) {
  backend::Context context(backend::Device::cpu, 1);
  const auto prepared = prepare_hessian(context, 2, std::vector<float>{0, 0, 0}, 0.01, true);
  EXPECT_EQ(prepared.dead_columns, 2);
  EXPECT_THAT(prepared.h.to_host(), ElementsAre(1, 0, 0, 1));
  EXPECT_LT(inverse_residual(prepared, 1.0), 1e-6);
}

TEST(Hessian, ASingularOneIsDampedTenfoldUntilItFactorsAndSaysSo) {
  backend::Context context(backend::Device::cpu, 1);
  // [[1, 1.05], [1.05, 1]] has the eigenvalue -0.05: 0.001 and 0.01 of the mean diagonal (1) are not enough, 0.1 is.
  const std::vector<float> lower{1, 1.05F, 1};
  const auto prepared = prepare_hessian(context, 2, lower, 0.001, false);
  EXPECT_DOUBLE_EQ(prepared.damping, 0.1);
  EXPECT_EQ(prepared.damping_steps, 2);
  EXPECT_LT(inverse_residual(prepared, 1.0), 1e-5);
  // From none at all: 1e-4, 1e-3, 1e-2, 1e-1.
  const auto from_zero = prepare_hessian(context, 2, lower, 0, false);
  EXPECT_DOUBLE_EQ(from_zero.damping, 0.1);
  EXPECT_EQ(from_zero.damping_steps, 4);
}

TEST(Hessian, RankOneFactorsWithTheDampingAskedFor) {
  backend::Context context(backend::Device::cpu, 1);
  const std::int64_t n = 40;
  const auto prepared =
      prepare_hessian(context, n, std::vector<float>(static_cast<std::size_t>(n * (n + 1) / 2), 1.0F), 0.01, true);
  EXPECT_EQ(prepared.damping_steps, 0);
  EXPECT_LT(inverse_residual(prepared, 1.0), 1e-3);
}

TEST(Hessian, WhatNoDampingMendsIsRefused) {
  backend::Context context(backend::Device::cpu, 1);
  try {
    prepare_hessian(context, 2, std::vector<float>{1, 3, 1}, 0.01, false);
    ADD_FAILURE() << "accepted";
  } catch (const core::NumericError& error) {
    EXPECT_THAT(error.what(), HasSubstr("does not factor"));
  }
}

TEST(Hessian, NumbersThatAreNotFiniteAreRefusedByRowAtOnce) {
  backend::Context context(backend::Device::cpu, 1);
  for (const float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    std::vector<float> lower{1, 0, 1, 0, bad, 1};
    try {
      prepare_hessian(context, 3, lower, 0.01, false);
      ADD_FAILURE() << "accepted";
    } catch (const core::NumericError& error) {
      EXPECT_THAT(error.what(), HasSubstr("row 2, column 1"));
    }
  }
  EXPECT_THROW(prepare_hessian(context, 2, std::vector<float>{1, 0, -1}, 0.01, false), core::NumericError);
}

TEST(Hessian, ThreadsDoNotChangeABit) {
  const std::int64_t n = 300;
  const auto lower = lower_triangle(n, second_moment(n, 400, 5));
  backend::Context one(backend::Device::cpu, 1), three(backend::Device::cpu, 3);
  const auto a = prepare_hessian(one, n, lower, 0.01, true), b = prepare_hessian(three, n, lower, 0.01, true);
  EXPECT_EQ(a.factor.to_host(), b.factor.to_host());
  EXPECT_EQ(a.h.to_host(), b.h.to_host());
  EXPECT_EQ(a.perm, b.perm);
}

TEST(Hessian, FactorAgreesWithVptqsOwn) {
  VORONOI_NEEDS_DATA("quantizer-steps/README.md");
  backend::Context context(backend::Device::cpu, 2);
  for (const char* name : {"vptq-v4", "vptq-v6-tail", "vptq-v8"}) {
    const test::SafetensorsLite tensors(test::data_path(std::string("quantizer-steps/") + name + ".safetensors"));
    const std::int64_t n = tensors.shape("hessian").at(0);
    const auto h = tensors.f32("hessian");
    // The reference divides by the mean diagonal, adds 0.01, then adds 0.01 of the new mean diagonal, 1.01.
    const auto prepared = prepare_hessian(context, n, lower_triangle(n, h), 0.01 + 0.0101, true);
    EXPECT_EQ(prepared.perm, tensors.i32("perm")) << name;
    const auto expected = tensors.f32("factor");
    const double to_unit = std::sqrt(mean_diagonal(n, h));  // (H / m)^-1 = (sqrt(m) U)^T (sqrt(m) U)
    double largest = 0, worst = 0;
    for (std::size_t i = 0; i < expected.size(); ++i) {
      largest = std::max(largest, std::abs(static_cast<double>(expected[i])));
      worst = std::max(
          worst, std::abs(static_cast<double>(prepared.factor.span()[i]) * to_unit - static_cast<double>(expected[i])));
    }
    EXPECT_LT(worst, 2e-5 * largest) << name;  // measured below 5e-7; the reference factors in fp32
  }
}

double plain_relative_error(std::int64_t rows, std::int64_t n, const std::vector<float>& w, const std::vector<float>& q,
                            const std::vector<float>& h) {
  double error = 0, energy = 0;
  for (std::int64_t r = 0; r < rows; ++r)
    for (std::int64_t i = 0; i < n; ++i)
      for (std::int64_t j = 0; j < n; ++j) {
        const double wi = static_cast<double>(w[at(n, r, i)]), wj = static_cast<double>(w[at(n, r, j)]);
        const double di = wi - static_cast<double>(q[at(n, r, i)]), dj = wj - static_cast<double>(q[at(n, r, j)]);
        error += di * static_cast<double>(h[at(n, i, j)]) * dj;
        energy += wi * static_cast<double>(h[at(n, i, j)]) * wj;
      }
  return error / energy;
}

TEST(RelativeHessianError, EqualsTheDefinitionAndIgnoresThreads) {
  const std::int64_t rows = 131, n = 37;
  const auto h = second_moment(n, 100, 11);
  const core::CounterRandom random(5, 5);
  std::vector<float> w(static_cast<std::size_t>(rows * n)), q(w.size());
  for (std::size_t i = 0; i < w.size(); ++i) {
    w[i] = static_cast<float>(random.uniform(i) - 0.5);
    q[i] = w[i] + static_cast<float>(0.1 * (random.uniform(i + w.size()) - 0.5));
  }
  backend::Context one(backend::Device::cpu, 1), three(backend::Device::cpu, 3);
  const backend::Array<float> metric(one, h);
  const double error = relative_hessian_error(one, rows, n, w, q, metric),
               expected = plain_relative_error(rows, n, w, q, h);
  EXPECT_NEAR(error, expected, 1e-5 * expected);
  EXPECT_EQ(error, relative_hessian_error(three, rows, n, w, q, metric));
}

TEST(RelativeHessianError, IsZeroForNoWeightAndForNoDifferenceAndOneForNothingKept) {
  backend::Context context(backend::Device::cpu, 1);
  const backend::Array<float> h(context, std::vector<float>{2, 1, 1, 2});
  const std::vector<float> w{1, -1, 3, 2}, zero(4);
  EXPECT_EQ(relative_hessian_error(context, 2, 2, zero, zero, h), 0);
  EXPECT_EQ(relative_hessian_error(context, 2, 2, zero, w, h), 0);
  EXPECT_EQ(relative_hessian_error(context, 2, 2, w, w, h), 0);
  EXPECT_EQ(relative_hessian_error(context, 2, 2, w, zero, h), 1);
}

}  // namespace
}  // namespace voronoi::quant
