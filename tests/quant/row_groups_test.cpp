// Groups of a linear's rows with a metric each: how their scales are kept, what they share, and what the vector methods
// make of them.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <numeric>
#include <vector>

#include "core/index.h"
#include "quant/site.h"
#include "quant/vq/layout.h"
#include "quant/vq/voronoi.h"
#include "quant/vq/voronoi_method.h"
#include "quant/vq/vptq_method.h"
#include "quant/vq_layer.h"
#include "support/thread_team.h"
#include "support/typed_encoding.h"

namespace voronoi::quant {
namespace {

using core::index;

constexpr std::int64_t kRowsOf = 192, kColumnsOf = 64, kHalf = 96;

std::vector<float> scaled_by(std::vector<float> values, float factor) {
  for (float& value : values) value *= factor;
  return values;
}

/// A linear of two groups of rows, each with the second moments of a layer of its own.
struct TwoGroups {
  explicit TwoGroups(const std::vector<float>& lower_first, const std::vector<float>& lower_second,
                     std::int64_t first_row = kHalf)
      : made(test::make_synthetic_layer(kRowsOf, kColumnsOf, 7)), boundary(first_row) {
    hessians = prepare_hessians(context, kColumnsOf, {{lower_first, first_row}, {lower_second, kRowsOf - first_row}},
                                0.01, true);
  }
  QuantInput input() const {
    QuantInput input{"model.layers.0.mlp.up_proj", kRowsOf, kColumnsOf, made.weight, &hessians[0], core::DType::f16};
    input.later_groups = {{boundary, &hessians[1]}};
    return input;
  }
  /// tr(D H D^T) and tr(W H W^T) of the rows of a group.
  HessianEnergies energies(std::size_t group, const std::vector<float>& decoded) {
    const std::int64_t first = group == 0 ? 0 : boundary, last = group == 0 ? boundary : kRowsOf;
    const std::size_t begin = index(first * kColumnsOf), count = index((last - first) * kColumnsOf);
    return hessian_energies(context, last - first, kColumnsOf, std::span(made.weight).subspan(begin, count),
                            std::span(decoded).subspan(begin, count), hessians[group].h);
  }

  backend::Context context{backend::Device::cpu, 1};
  test::SyntheticLayer made;
  std::int64_t boundary;
  std::vector<PreparedHessian> hessians;
};

std::vector<float> lower_of(std::uint64_t seed) { return test::make_synthetic_layer(1, kColumnsOf, seed).lower; }

QuantResult quantized_in_groups(const QuantInput& input, const QuantParameters& parameters,
                                const Method& method = voronoi_method()) {
  backend::Context context(backend::Device::cpu, 2);
  core::SoloTeam team;
  return method.quantize(context, team, input, parameters);
}

InputMoments group_moments(const std::vector<float>& plain, const std::vector<float>& first,
                           const std::vector<float>& second, std::int64_t first_row) {
  InputMoments moments;
  moments.plain = plain;
  moments.guided = first;
  moments.effective_tokens = 8;
  moments.tokens = 100;
  moments.later_groups.push_back({first_row, second, 24, {}, {}, {}});
  return moments;
}

// By hand, of order 2: groups of 3 and 1 rows, guided traces 1 and 9, so that their mean is 3 and their scales 1/3 and
// 3; shares (no held-out tokens) 8 / (8 + 8) / 2 and 24 / (24 + 8) / 2.
TEST(RowGroups, MetricsKeepTheScaleOfTheirGuidedMoments) {
  backend::Context context(backend::Device::cpu, 1);
  const std::vector<float> plain{3, 1, 1}, first{0.25F, 0, 0.75F}, second{6, -1, 3};
  const std::vector<Metric> metrics = choose_metrics(context, 2, 4, group_moments(plain, first, second, 3), 0.01, true);
  ASSERT_EQ(metrics.size(), 2U);
  EXPECT_DOUBLE_EQ(metrics[0].guided_share, 0.25);
  EXPECT_DOUBLE_EQ(metrics[1].guided_share, 0.375);
  // 1/3 (3/4 plain + 1/4 * 4 first), 3 (5/8 plain + 3/8 * 4/9 second).
  const std::vector<double> expected_first{(2.25 + 0.25) / 3, 0.75 / 3, (0.75 + 0.75) / 3};
  const std::vector<double> expected_second{3 * (1.875 + 1), 3 * (0.625 - 1.0 / 6), 3 * (0.625 + 0.5)};
  for (std::size_t i = 0; i < 3; ++i) {
    EXPECT_NEAR(metrics[0].lower[i], expected_first[i], 1e-6) << i;
    EXPECT_NEAR(metrics[1].lower[i], expected_second[i], 1e-6) << i;
  }
}

TEST(RowGroups, RowsThatNobodyFeelsStillHaveAMetric) {
  backend::Context context(backend::Device::cpu, 1);
  const std::vector<float> plain{3, 1, 1}, first{1, 0, 1}, none;
  const std::vector<Metric> metrics = choose_metrics(context, 2, 4, group_moments(plain, first, none, 2), 0.01, true);
  EXPECT_EQ(metrics[1].guided_share, 0);
  for (std::size_t i = 0; i < 3; ++i) EXPECT_NEAR(metrics[1].lower[i], kLeastGroupScale * plain[i], 1e-9) << i;
}

TEST(RowGroups, EqualMomentsAreThoseOfOneGroupToTheLastBit) {
  backend::Context context(backend::Device::cpu, 1);
  const std::vector<float> plain = lower_of(1), guided = scaled_by(lower_of(2), 1e-7F);
  InputMoments groups = group_moments(plain, guided, guided, 80);
  groups.later_groups[0].effective_tokens = groups.effective_tokens;
  InputMoments one = groups;
  one.later_groups.clear();
  const std::vector<Metric> metrics = choose_metrics(context, kColumnsOf, kRowsOf, groups, 0.01, true);
  const Metric alone = choose_metric(context, kColumnsOf, one, 0.01, true);
  EXPECT_EQ(metrics[0].lower, alone.lower);
  EXPECT_EQ(metrics[1].lower, alone.lower);

  const PreparedHessian single = prepare_hessian(context, kColumnsOf, alone.lower, 0.01, true);
  const std::vector<PreparedHessian> both =
      prepare_hessians(context, kColumnsOf, {{alone.lower, 80}, {alone.lower, 112}}, 0.01, true);
  for (const PreparedHessian& own : both) {
    EXPECT_EQ(own.perm, single.perm);
    EXPECT_EQ(own.factor.to_host(), single.factor.to_host());
  }
}

// Diagonals (1, 4, 2) of one row and (6, 1, 2) of three: the mean is (4.75, 1.75, 2).
TEST(RowGroups, ColumnsHaveOneOrderAndOneUnit) {
  backend::Context context(backend::Device::cpu, 1);
  const std::vector<float> first{1, 0, 4, 0, 0, 2}, second{6, 0, 1, 0, 0, 2};
  const auto prepared = prepare_hessians(context, 3, {{first, 1}, {second, 3}}, 0.01, true);
  const std::vector<std::int32_t> order{0, 2, 1};
  for (const PreparedHessian& own : prepared) EXPECT_EQ(own.perm, order);
  EXPECT_NEAR(prepared[0].factor.to_host()[0], 1 / std::sqrt(1 + 0.01 * 7 / 3), 1e-6);
  EXPECT_NEAR(prepared[1].factor.to_host()[0], 1 / std::sqrt(6 + 0.01 * 3), 1e-6);
  // A moment far out of fp32's products takes the other along into its unit.
  const auto large = prepare_hessians(context, 3, {{first, 1}, {scaled_by(second, 1e20F), 3}}, 0.01, true);
  EXPECT_NE(large[0].unit_exponent, 0);
  EXPECT_EQ(large[0].unit_exponent, large[1].unit_exponent);
}

TEST(RowGroups, PartsAreThoseOfOneGroupCutAtTheNearestVector) {
  const QuantParameters parameters = parameters_of(6, 16);
  const VqGeometry one = make_geometry(parameters, 1152, 64);
  const std::vector<std::int64_t> rows{400, 1150};
  const VqGeometry geometry = make_geometry(parameters, 1152, 64, rows);
  EXPECT_EQ(geometry.row_groups, (std::vector<std::int64_t>{0, 402, 1152}));  // the last one is left without a row
  EXPECT_EQ(geometry.n_parts, one.n_parts + 1);
  for (const std::int64_t cut : one.cuts)
    EXPECT_TRUE(std::find(geometry.cuts.begin(), geometry.cuts.end(), cut) != geometry.cuts.end()) << cut;
  for (std::int64_t part = 0; part < geometry.n_parts; ++part)
    EXPECT_EQ(geometry.row_group(part), geometry.row_begin(part) < 402 ? 0 : 1);
  std::int64_t row = 0;
  for (std::int64_t member = 0; member < 3; ++member)
    for (const PieceParts& piece : member_pieces(geometry, member, 3)) {
      EXPECT_EQ(piece.parts.row_begin, row);
      row += piece.parts.rows;
      EXPECT_TRUE(piece.row_group == 1 || row <= 402);
    }
  EXPECT_EQ(row, 1152);
}

TEST(RowGroups, EqualHessiansGiveTheBytesOfOneGroup) {
  const std::vector<float> lower = lower_of(3);
  const TwoGroups layer(lower, lower);
  const QuantInput groups = layer.input();
  QuantInput one = groups;
  one.later_groups.clear();
  QuantParameters parameters = parameters_of(4, 32, 16);
  ASSERT_EQ(make_geometry(parameters, kRowsOf, kColumnsOf).cuts, (std::vector<std::int64_t>{0, kHalf, kRowsOf}))
      << "else sums of other parts differ in the last bit";
  const QuantResult result = quantized_in_groups(groups, parameters), alone = quantized_in_groups(one, parameters);
  EXPECT_EQ(test::vq_of(result.encoding).indices, test::vq_of(alone.encoding).indices);
  EXPECT_EQ(test::vq_of(result.encoding).codebook, test::vq_of(alone.encoding).codebook);
  EXPECT_EQ(test::vq_of(result.encoding).scale, test::vq_of(alone.encoding).scale);
  EXPECT_EQ(result.relative_error, alone.relative_error);
}

TEST(RowGroups, RowsAreFittedInTheMetricOfTheirGroup) {
  TwoGroups layer(lower_of(3), lower_of(4));
  const QuantInput groups = layer.input();
  QuantInput one = groups;  // all rows in the first group's
  one.later_groups.clear();
  for (const Method* method : {&vptq_method(), &voronoi_method()}) {
    const QuantParameters parameters = parameters_of(4, 64);
    const QuantResult result = quantized_in_groups(groups, parameters, *method);
    const std::vector<float> own = test::decoded(result.encoding),
                             other = test::decoded(quantized_in_groups(one, parameters, *method).encoding);
    const HessianEnergies first = layer.energies(0, own), second = layer.energies(1, own);
    EXPECT_NEAR(result.relative_error, (first.error + second.error) / (first.energy + second.energy),
                1e-4 * result.relative_error)
        << method->name();
    EXPECT_LT(second.error, 0.8 * layer.energies(1, other).error) << method->name();
  }
}

// The loss feels next to nothing of the second group, whose weights are larger: the codebook is then the first one's.
TEST(RowGroups, ACodebookIsMadeForThoseWhoseErrorsAreFelt) {
  const std::vector<float> lower = lower_of(3);
  TwoGroups even(lower, lower), uneven(lower, scaled_by(lower, 1e-4F));
  for (TwoGroups* layer : {&even, &uneven})
    std::for_each(layer->made.weight.begin() + kHalf * kColumnsOf, layer->made.weight.end(),
                  [](float& value) { value *= 4; });
  const QuantParameters parameters = parameters_of(4, 16);
  const std::vector<float> shared = test::decoded(quantized_in_groups(even.input(), parameters).encoding),
                           favoured = test::decoded(quantized_in_groups(uneven.input(), parameters).encoding);
  EXPECT_LT(even.energies(0, favoured).error, 0.8 * even.energies(0, shared).error);
  EXPECT_GT(even.energies(1, favoured).error, even.energies(1, shared).error);
}

TEST(RowGroups, HaveTheSameBytesOnATeam) {
  const TwoGroups layer(lower_of(3), lower_of(4), 80);
  QuantParameters parameters = parameters_of(6, 16, 8);
  parameters.get<VectorParameters>().outlier_percent = 5;
  parameters.get<VectorParameters>().outlier_vector_length = 4;
  parameters.get<VectorParameters>().outlier_centroids = 8;
  const QuantInput input = layer.input();
  const format::Encoding alone = quantized_in_groups(input, parameters).encoding;
  for (const int members : {2, 3, 5}) {
    std::vector<QuantResult> results(index(members));
    test::run_as_team(members, [&](core::Team& team) {
      backend::Context context(backend::Device::cpu, 1 + team.rank());
      results[index(team.rank())] = voronoi_method().quantize(context, team, input, parameters);
    });
    for (const QuantResult& result : results) {
      EXPECT_EQ(test::vq_of(result.encoding).indices, test::vq_of(alone).indices) << members;
      EXPECT_EQ(test::vq_of(result.encoding).outlier_indices, test::vq_of(alone).outlier_indices) << members;
      EXPECT_EQ(test::vq_of(result.encoding).codebook, test::vq_of(alone).codebook) << members;
      EXPECT_EQ(test::vq_of(result.encoding).scale, test::vq_of(alone).scale) << members;
    }
  }
}

}  // namespace
}  // namespace voronoi::quant
