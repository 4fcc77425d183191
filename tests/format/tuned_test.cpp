#include "format/tuned.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "core/error.h"
#include "core/random.h"
#include "support/random_packed.h"
#include "support/typed_encoding.h"

namespace voronoi::format {
namespace {

using test::AqlmShape;
using test::case_of;
using test::E8pShape;
using test::GptvqShape;
using test::PackedShape;
using test::SignedShape;
using test::TrellisShape;
using test::UniformShape;
using testing::HasSubstr;

std::size_t index(std::int64_t value) { return static_cast<std::size_t>(value); }

std::vector<float> random_values(std::int64_t n, std::uint64_t seed) {
  const core::CounterRandom random(seed, 1);
  std::vector<float> values(index(n));
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(random.uniform(i) - 0.5);
  return values;
}

/// Sums of terms and of their magnitudes.
struct Sums {
  explicit Sums(std::size_t n) : total(n), size(n) {}
  void add(std::size_t i, double term) {
    total[i] += term;
    size[i] += std::fabs(term);
  }
  std::vector<double> total, size;
};

/// Code j of a packed row.
std::uint32_t code_at(std::span<const std::uint32_t> words, std::int64_t row, std::int64_t n, int bits,
                      std::int64_t j) {
  const std::int64_t size = core::packed_words(n, bits);
  std::vector<std::uint32_t> codes(index(n));
  core::unpack_row(words.subspan(index(row * size), index(size)), bits, codes);
  return codes[index(j)];
}

/// The gradient by its definition, weight for weight, in fp64; parameters in the order of the runs.
Sums plain_gradient(const VqEncoding& e, const std::vector<float>& parameters, const std::vector<float>& d_weight) {
  const std::int64_t v = e.vector_length, n = e.in_features;
  const std::size_t residual = e.codebook.size(), outlier = residual + e.residual_codebook.size(),
                    scale = outlier + e.outlier_codebook.size(), bias = scale + index(n);
  Sums sums(bias + index(n));
  for (std::int64_t row = 0; row < e.out_features; ++row)
    for (std::int64_t stored = 0; stored < n; ++stored) {
      const std::size_t column = e.perm.empty() ? index(stored) : e.perm[index(stored)];
      const auto d = static_cast<double>(d_weight[index(row * n) + column]);
      const auto s = static_cast<double>(parameters[scale + column]);
      double centroid = 0;
      const auto use = [&](std::size_t place) {
        sums.add(place, d * s);
        centroid += static_cast<double>(parameters[place]);
      };
      if (stored < e.outlier_size) {
        const std::int64_t v0 = e.outlier_vector_length;
        use(outlier + index(e.outlier_indices[index(row / v0 * e.outlier_size + stored)] * v0 + row % v0));
      } else {
        const std::int64_t g = (stored - e.outlier_size) / e.group_size(), r = g * e.vector_rows() + row / v;
        const std::uint32_t code = code_at(e.indices, r, e.group_size(), e.main_bits() + e.residual_bits(),
                                           (stored - e.outlier_size) % e.group_size());
        use(index((g * e.centroids + code % e.centroids) * v + row % v));
        if (e.residual_centroids > 0)
          use(residual + index((g * e.residual_centroids + code / e.centroids) * v + row % v));
      }
      sums.add(scale + column, d * centroid);
      sums.add(bias + column, d);
    }
  return sums;
}

/// Of a natural column.
double factor_of(const auto& e, std::size_t column) {
  return e.column_scale.empty() ? 1.0 : static_cast<double>(core::from_bits16(e.dtype, e.column_scale[column]));
}

Sums plain_gradient(const UniformEncoding& e, const std::vector<float>&, const std::vector<float>& d_weight) {
  const std::int64_t n = e.in_features, n_groups = core::ceil_div(n, e.group_size);
  const int bits = static_cast<int>(e.bits);
  Sums sums(index(e.out_features * n_groups));
  for (std::int64_t row = 0; row < e.out_features; ++row)
    for (std::int64_t stored = 0; stored < n; ++stored) {
      const std::size_t column = e.perm.empty() ? index(stored) : e.perm[index(stored)];
      const std::int64_t g = stored / e.group_size;
      const double step = static_cast<double>(code_at(e.codes, row, n, bits, stored)) -
                          static_cast<double>(code_at(e.zeros, row, n_groups, bits, g));
      const double d = static_cast<double>(d_weight[index(row * n) + column]) * factor_of(e, column);
      sums.add(index(row * n_groups + g), d * step);
    }
  return sums;
}

Sums plain_gradient(const SignedLevelsEncoding& e, const std::vector<float>&, const std::vector<float>& d_weight) {
  const std::int64_t n = e.in_features, n_groups = core::ceil_div(n, e.group_size);
  const std::span<const float> levels = levels_of(e.table, e.bits);
  Sums sums(index(2 * e.out_features * n_groups));
  for (std::int64_t row = 0; row < e.out_features; ++row)
    for (std::int64_t stored = 0; stored < n; ++stored) {
      const std::size_t column = e.perm.empty() ? index(stored) : e.perm[index(stored)];
      const auto level = static_cast<double>(levels[code_at(e.codes, row, n, static_cast<int>(e.bits), stored)]);
      const double d = static_cast<double>(d_weight[index(row * n) + column]) * factor_of(e, column);
      sums.add(index(2 * (row * n_groups + stored / e.group_size)) + (level < 0 ? 1 : 0), d * level);
    }
  return sums;
}

Sums plain_gradient(const AqlmEncoding& e, const std::vector<float>& parameters, const std::vector<float>& d_weight) {
  const std::int64_t n = e.in_features;
  Sums sums(e.codebook.size() + index(e.out_features));
  for (std::int64_t row = 0; row < e.out_features; ++row)
    for (std::int64_t c = 0; c < n; ++c) {
      const auto d = static_cast<double>(d_weight[index(row * n + c)]);
      const auto scale = static_cast<double>(parameters[e.codebook.size() + index(row)]);
      double sum = 0;
      for (std::int64_t m = 0; m < e.codebooks; ++m) {
        const std::size_t at = index((row * e.groups() + c / e.in_group) * e.codebooks + m);
        const std::int64_t code = (e.codes8.empty() ? e.codes16[at] : e.codes8[at]) % e.centroids();
        const std::size_t place = index((m * e.centroids() + code) * e.in_group + c % e.in_group);
        sums.add(place, d * scale);
        sum += static_cast<double>(parameters[place]);
      }
      sums.add(e.codebook.size() + index(row), d * sum);
    }
  return sums;
}

Sums plain_gradient(const GptvqEncoding& e, const std::vector<float>& parameters, const std::vector<float>& d_weight) {
  const std::int64_t n = e.in_features, d = e.vector_columns;
  Sums sums(parameters.size());
  for (std::int64_t row = 0; row < e.out_features; ++row)
    for (std::int64_t stored = 0; stored < n; ++stored) {
      const std::size_t column = e.perm.empty() ? index(stored) : e.perm[index(stored)];
      double term = static_cast<double>(d_weight[index(row * n) + column]);
      if (e.scale_block > 0) {
        const std::size_t block = index(stored / e.scale_block);
        const auto of = [&](std::size_t i) { return static_cast<double>(core::from_bits16(e.dtype, e.block_grid[i])); };
        term *= of(2 * block) * std::pow(of(2 * block + 1),
                                         code_at(e.block_codes, row, e.blocks(), 4, static_cast<std::int64_t>(block)));
      }
      const std::size_t book = index(row / e.group_rows * e.strips() + stored / e.group_columns),
                        at = index((static_cast<std::int64_t>(book) * e.centroids +
                                    code_at(e.indices, row, e.vectors(), e.index_bits(), stored / d)) *
                                       d +
                                   stored % d);
      if (e.codebook8.empty())
        sums.add(at, term);
      else
        sums.add(book, term * static_cast<std::int8_t>(e.codebook8[at]) / 127);
    }
  return sums;
}

/// W without the factors is what the encoding decodes to without them.
Sums factor_gradient(Encoding encoding, const std::vector<float>& parameters, const std::vector<float>& d_weight) {
  const std::int64_t n = encoding.in_features;
  std::erase_if(encoding.arrays,
                [](const NamedArray& array) { return array.name == "in_factor" || array.name == "out_factor"; });
  const std::vector<float> weight = test::decoded(encoding);
  Sums sums(parameters.size());
  for (std::int64_t row = 0; row < encoding.out_features; ++row)
    for (std::int64_t c = 0; c < n; ++c) {
      const std::size_t at = index(row * n + c), of_row = index(n + row);
      const double term = static_cast<double>(d_weight[at]) * static_cast<double>(weight[at]);
      sums.add(index(c), term * static_cast<double>(parameters[of_row]));
      sums.add(of_row, term * static_cast<double>(parameters[index(c)]));
    }
  return sums;
}

Sums plain_gradient(const Encoding& encoding, const std::vector<float>& parameters,
                    const std::vector<float>& d_weight) {
  if (encoding.format == &vptq_format()) return plain_gradient(test::vq_of(encoding), parameters, d_weight);
  if (encoding.format == &uniform_format()) return plain_gradient(test::uniform_of(encoding), parameters, d_weight);
  if (encoding.format == &aqlm_format()) return plain_gradient(test::aqlm_of(encoding), parameters, d_weight);
  if (encoding.format == &gptvq_format()) return plain_gradient(test::gptvq_of(encoding), parameters, d_weight);
  if (encoding.format == &signed_levels_format())
    return plain_gradient(test::signed_levels_of(encoding), parameters, d_weight);
  return factor_gradient(encoding, parameters, d_weight);
}

/// An encoding, its tuned matrix, and parameters away from the stored ones.
class Tuned : public ::testing::TestWithParam<test::PackedCase> {
 protected:
  void SetUp() override {
    matrix_ = encoding().format->tuned(context_, encoding());
    ASSERT_NE(matrix_, nullptr);
    moved_ = matrix_->initial();
    const std::vector<float> step = random_values(matrix_->n_parameters(), 5);
    for (std::size_t i = 0; i < moved_.size(); ++i) moved_[i] += 0.1F * step[i];
    d_weight_ = random_values(n_weights(), 6);
  }
  const Encoding& encoding() const { return GetParam().encoding; }
  std::int64_t n_weights() const { return encoding().out_features * encoding().in_features; }
  std::vector<float> decoded(const std::vector<float>& parameters) {
    std::vector<float> weight(index(n_weights()), std::numeric_limits<float>::quiet_NaN());
    matrix_->decode(context_, parameters.data(), weight.data());
    return weight;
  }
  void add_gradient(backend::Context& context, std::vector<float>& gradient) {
    matrix_->add_gradient(context, moved_.data(), decoded(moved_).data(), d_weight_.data(), gradient.data());
  }

  backend::Context context_{backend::Device::cpu, 2};
  std::unique_ptr<TunedMatrix> matrix_;
  std::vector<float> moved_, d_weight_;
};

TEST_P(Tuned, TheStoredNumbersDecodeToTheSameBitsAndRoundToTheSameEncoding) {
  EXPECT_EQ(decoded(matrix_->initial()), test::decoded(encoding()));
  EXPECT_TRUE(matrix_->rounded(matrix_->initial()) == encoding());
}

TEST_P(Tuned, MovedNumbersAreRoundedToTheStoredTypeAndTheCodesStay) {
  const Encoding rounded = matrix_->rounded(moved_);
  EXPECT_EQ(find_problem(rounded), "");
  const auto again = rounded.format->tuned(context_, rounded);
  const std::vector<float> values = again->initial();
  for (const ParameterRun& run : matrix_->runs())
    for (std::size_t i = index(run.first); i < index(run.first + run.size); ++i)
      ASSERT_EQ(values[i], core::round_to(run.dtype, moved_[i])) << i;
  for (std::size_t a = 0; a < rounded.arrays.size(); ++a) {
    const bool tuned = std::any_of(matrix_->runs().begin(), matrix_->runs().end(),
                                   [&](const ParameterRun& run) { return run.array == rounded.arrays[a].name; });
    EXPECT_NE(rounded.arrays[a] == encoding().arrays[a], tuned) << rounded.arrays[a].name;
  }
}

TEST_P(Tuned, TheRunsAreThePartsOfTheParametersOneBehindTheOther) {
  std::int64_t first = 0, fixed_bytes = stored_bits(encoding()) / 8;
  for (const ParameterRun& run : matrix_->runs()) {
    EXPECT_EQ(run.first, first);
    EXPECT_GT(run.size, 0);
    first += run.size;
    fixed_bytes -= run.size * 2;
  }
  EXPECT_EQ(matrix_->n_parameters(), first);
  EXPECT_EQ(matrix_->size_bytes(), fixed_bytes);
}

TEST_P(Tuned, CodesComeBackAsTheyLeft) {
  const std::vector<float> weight = decoded(moved_), initial = matrix_->initial();
  const std::int64_t size = matrix_->size_bytes();
  const Encoding rounded = matrix_->rounded(initial);
  for (const bool stay : {false, false, true}) {
    matrix_->leave_device();
    EXPECT_EQ(matrix_->size_bytes(), size);
    EXPECT_EQ(matrix_->rounded(initial), rounded);
    matrix_->enter_device(stay);
    context_.memory().uploads_join(context_.exec());
    EXPECT_EQ(decoded(moved_), weight);
  }
}

TEST_P(Tuned, TheGradientIsThatOfItsDefinition) {
  const Sums expected = plain_gradient(encoding(), moved_, d_weight_);
  std::vector<float> gradient(moved_.size(), 0.25F);
  add_gradient(context_, gradient);
  ASSERT_EQ(expected.total.size(), gradient.size());
  for (std::size_t i = 0; i < gradient.size(); ++i)
    ASSERT_NEAR(static_cast<double>(gradient[i]) - 0.25, expected.total[i], 1e-6 * expected.size[i] + 1e-6) << i;
}

TEST_P(Tuned, TheGradientSaysHowTheDecodedWeightMoves) {
  std::vector<float> gradient(moved_.size());
  add_gradient(context_, gradient);
  const auto loss = [&](const std::vector<float>& parameters) {
    const std::vector<float> weight = decoded(parameters);
    double sum = 0;
    for (std::size_t i = 0; i < weight.size(); ++i)
      sum += static_cast<double>(weight[i]) * static_cast<double>(d_weight_[i]);
    return sum;
  };
  const std::vector<float> direction = random_values(matrix_->n_parameters(), 7);
  for (const ParameterRun& run : matrix_->runs()) {  // linear in each array
    std::vector<float> ahead = moved_, behind = moved_;
    double expected = 0, size = 0;
    for (std::int64_t k = run.first; k < run.first + run.size; ++k) {
      const std::size_t i = index(k);
      ahead[i] += direction[i];
      behind[i] -= direction[i];
      const double term = static_cast<double>(gradient[i]) * static_cast<double>(direction[i]);
      expected += term;
      size += std::fabs(term);
    }
    EXPECT_NEAR((loss(ahead) - loss(behind)) / 2, expected, 1e-5 * size + 1e-4) << run.array;
  }
}

TEST_P(Tuned, AnyNumberOfThreadsGivesTheSameBits) {
  std::vector<float> first;
  for (const int threads : {1, 2, 3}) {
    backend::Context context(backend::Device::cpu, threads);
    std::vector<float> gradient(moved_.size(), 0.5F);
    add_gradient(context, gradient);
    if (first.empty()) first = gradient;
    EXPECT_EQ(gradient, first) << threads;
  }
}

TEST_P(Tuned, WhatTheStoredTypeCannotHoldIsRefusedWithTheArray) {
  for (const ParameterRun& run : matrix_->runs())
    for (const float bad : {std::numeric_limits<float>::quiet_NaN(), -std::numeric_limits<float>::infinity(),
                            run.dtype == core::DType::f16 ? 65520.0F : 3.4e38F}) {
      std::vector<float> parameters = matrix_->initial();
      parameters[index(run.first + run.size - 1)] = bad;
      decoded(parameters);  // of no meaning, but nothing is read out of bounds
      try {
        (void)matrix_->rounded(parameters);
        ADD_FAILURE() << bad << " in " << run.array << " was accepted";
      } catch (const core::NumericError& error) {
        EXPECT_THAT(error.what(), HasSubstr(std::string(run.array) + "[" + std::to_string(run.size - 1) + "] is "));
      }
    }
  std::vector<float> short_one = matrix_->initial();
  short_one.pop_back();
  EXPECT_THROW((void)matrix_->rounded(short_one), core::InternalError);
}

/// Formats whose factors come with tuning.
TEST(TunedFactors, ComeWithTheFirstThatMovesAndAreOnesBefore) {
  for (const Encoding& plain : {test::random_packed(TrellisShape{40, 24, 2, 16, 0, true, core::DType::bf16}),
                                test::random_packed(E8pShape{40, 24, 3})}) {
    backend::Context context(backend::Device::cpu, 1);
    const auto matrix = plain.format->tuned(context, plain);
    ASSERT_EQ(matrix->n_parameters(), 24 + 40);
    EXPECT_FALSE(matrix->can_recode());
    EXPECT_THROW(matrix->recode(context, {}, {}, 0.1), core::InternalError);
    std::vector<float> values = matrix->initial();
    EXPECT_EQ(values, std::vector<float>(24 + 40, 1.0F));
    EXPECT_TRUE(matrix->rounded(values) == plain);
    std::vector<float> weight(40 * 24);
    matrix->decode(context, values.data(), weight.data());
    EXPECT_EQ(weight, test::decoded(plain));
    // One that rounds to 1 in F16 has not moved.
    values[3] = 1 + 0x1p-12F;
    EXPECT_TRUE(matrix->rounded(values) == plain);

    values[24 + 2] = -0.75F;
    values[24 + 3] = 0;
    const Encoding moved = matrix->rounded(values);
    EXPECT_EQ(find_problem(moved), "");
    EXPECT_EQ(stored_bits(moved), stored_bits(plain) + 16 * 40);
    std::vector<float> expected = weight;
    for (std::size_t c = 0; c < 24; ++c) {
      expected[2 * 24 + c] *= -0.75F;
      expected[3 * 24 + c] *= 0;
    }
    EXPECT_EQ(test::decoded(moved), expected);
    // What is multiplied by 0 has no derivative that the weight could tell: it stays.
    const auto again = moved.format->tuned(context, moved);
    values = again->initial();
    std::vector<float> gradient(values.size());
    again->add_gradient(context, values.data(), expected.data(), weight.data(), gradient.data());
    EXPECT_EQ(gradient[24 + 3], 0);
    EXPECT_NE(gradient[24 + 2], 0);
    EXPECT_TRUE(again->rounded(values) == moved);
  }
}

// Vectors that end with the matrix and such that do not, with and without residual, outliers, groups and a column
// order; many parts of the vector rows and one.
INSTANTIATE_TEST_SUITE_P(Vptq, Tuned,
                         ::testing::Values(case_of(PackedShape{24, 64, 4, 8, 0}),
                                           case_of(PackedShape{601, 120, 6, 4, 0}),
                                           case_of(PackedShape{50, 70, 8, 10, 8, 1, 0, 0, 0, false, core::DType::bf16}),
                                           case_of(PackedShape{399, 66, 12, 5, 3}),
                                           case_of(PackedShape{35, 90, 16, 8, 4, 1, 0, 0, 0, true}),
                                           case_of(PackedShape{401, 96, 6, 5, 4, 3, 6, 4, 37, true, core::DType::bf16}),
                                           case_of(PackedShape{190, 40, 4, 6, 6, 2, 10, 8, 300, true}),
                                           case_of(PackedShape{77, 51, 3, 4, 2, 1, 1, 5, 7})));

INSTANTIATE_TEST_SUITE_P(Uniform, Tuned,
                         ::testing::Values(case_of(UniformShape{24, 64, 2, 64}),
                                           case_of(UniformShape{37, 101, 3, 16, true}),
                                           case_of(UniformShape{34, 70, 4, 70, false, core::DType::bf16}),
                                           case_of(UniformShape{7, 65, 11, 5, true}),
                                           case_of(UniformShape{1, 1, 1, 1})));

// Many parts of the rows and one; both widths of codes.
INSTANTIATE_TEST_SUITE_P(Aqlm, Tuned,
                         ::testing::Values(case_of(AqlmShape{24, 64}), case_of(AqlmShape{301, 96, 3, 3, 16}),
                                           case_of(AqlmShape{37, 120, 2, 9, 4, core::DType::bf16}),
                                           case_of(AqlmShape{1, 1, 1, 1, 1})));

// Both kinds of codebooks, with blocks and a column order and without, short groups and strips.
INSTANTIATE_TEST_SUITE_P(Gptvq, Tuned,
                         ::testing::Values(case_of(GptvqShape{24, 64, 2, 4, 8, 32}),
                                           case_of(GptvqShape{37, 102, 2, 6, 10, 40, 16}),
                                           case_of(GptvqShape{34, 72, 4, 8, 34, 24, 8, 16, true, core::DType::bf16}),
                                           case_of(GptvqShape{5, 300, 1, 3, 2, 256, 16, 64, true, core::DType::bf16})));

// Both sides turned, and none; several parts of the rows and one; a tail of codes.
INSTANTIATE_TEST_SUITE_P(Trellis, Tuned,
                         ::testing::Values(case_of(TrellisShape{24, 64, 2, 16, 0, true, core::DType::f16, true}),
                                           case_of(TrellisShape{101, 36, 3, 14, 1, true, core::DType::bf16, true}),
                                           case_of(TrellisShape{33, 20, 1, 12, 2, false, core::DType::f16, true})));
INSTANTIATE_TEST_SUITE_P(E8p, Tuned,
                         ::testing::Values(case_of(E8pShape{24, 64, 2, true, core::DType::f16, true}),
                                           case_of(E8pShape{70, 36, 3, true, core::DType::bf16, true}),
                                           case_of(E8pShape{37, 101, 4, false, core::DType::f16, true})));

// Columns with scales, in both forms of codes of single weights.
INSTANTIATE_TEST_SUITE_P(Scaled, Tuned,
                         ::testing::Values(case_of(UniformShape{37, 101, 3, 16, true, core::DType::f16, true}),
                                           case_of(UniformShape{24, 70, 4, 64, false, core::DType::bf16, true})));

INSTANTIATE_TEST_SUITE_P(
    SignedLevels, Tuned,
    ::testing::Values(case_of(SignedShape{24, 64, 3, LevelTable::normal, 64}),
                      case_of(SignedShape{37, 101, 4, LevelTable::normal, 16, true}),
                      case_of(SignedShape{34, 70, 4, LevelTable::floating, 70, false, core::DType::bf16, true}),
                      case_of(SignedShape{7, 65, 3, LevelTable::floating, 5, true, core::DType::f16, true})));

}  // namespace
}  // namespace voronoi::format
