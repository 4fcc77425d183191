#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "core/index.h"
#include "core/packing.h"
#include "quant/baselines/gptq.h"
#include "quant/baselines/rtn.h"
#include "quant/baselines/uniform_method.h"
#include "quant/gptvq/codes.h"
#include "quant/gptvq/gptvq_method.h"
#include "quant/gptvq/strip_loop.h"
#include "quant/layers.h"
#include "quant/vq/vector_parameters.h"
#include "support/thread_team.h"
#include "support/typed_encoding.h"

namespace voronoi::quant {
namespace {

using core::DType;
using core::SoloTeam;

QuantParameters gptvq_parameters(int bits, std::int64_t vector_columns, std::int64_t group_weights = 0) {
  QuantParameters p;
  p.method = "gptvq";
  p.get<UniformParameters>().bits = bits;
  p.get<GptvqParameters>().vector_columns = vector_columns;
  p.get<GptvqParameters>().group_weights = group_weights;
  return p;
}

/// The pass column by column in fp64 from codebooks as they are stored, natural order of the result. Errors within a
/// vector go on to its later columns by the factor, the exact rule, or not at all, the published one.
std::vector<float> plain_pass(const test::Layer& layer, const format::GptvqEncoding& e, bool published) {
  const std::int64_t n = layer.in_features, d = e.vector_columns, k = e.centroids;
  const auto& u = layer.hessian.factor.span();
  const auto factor = [&](std::int64_t i, std::int64_t j) { return static_cast<double>(u[core::index(i * n + j)]); };
  std::vector<float> quantized(layer.weight.size());
  for (std::int64_t row = 0; row < layer.out_features; ++row) {
    std::vector<double> w;
    for (const std::int32_t c : layer.hessian.perm)
      w.push_back(static_cast<double>(layer.weight[core::index(row * n + c)]));
    for (std::int64_t c = 0; c < n; c += d) {
      const std::int64_t book = row / e.group_rows * e.strips() + c / e.group_columns;
      const auto value = [&](std::int64_t code, std::int64_t i) {
        return static_cast<double>(core::from_bits16(e.dtype, e.codebook[core::index((book * k + code) * d + i)]));
      };
      // One column after the other: what is left of the vector once its earlier columns' errors are made up for.
      const auto errors = [&](std::int64_t code) {
        std::vector<double> error;
        for (std::int64_t i = 0; i < d; ++i) {
          double left = w[core::index(c + i)] - value(code, i);
          for (std::int64_t l = 0; l < i && !published; ++l) left -= error[core::index(l)] * factor(c + l, c + i);
          error.push_back(left / factor(c + i, c + i));
        }
        return error;
      };
      std::int64_t best = 0;
      double least = 1e300;
      for (std::int64_t code = 0; code < k; ++code) {
        const std::vector<double> error = errors(code);
        double cost = 0;
        // The published choice weighs by the reciprocal of the factor's diagonal.
        for (std::int64_t i = 0; i < d; ++i)
          cost += error[core::index(i)] * error[core::index(i)] * (published && d > 1 ? factor(c + i, c + i) : 1);
        if (cost < least) {
          least = cost;
          best = code;
        }
      }
      const std::vector<double> error = errors(best);
      for (std::int64_t i = 0; i < d; ++i) {
        quantized[core::index(row * n + layer.hessian.perm[core::index(c + i)])] = static_cast<float>(value(best, i));
        for (std::int64_t later = c + d; later < n; ++later)
          w[core::index(later)] -= error[core::index(i)] * factor(c + i, later);
      }
    }
  }
  return quantized;
}

std::int64_t count_different(const std::vector<float>& a, const std::vector<float>& b) {
  std::int64_t count = 0;
  for (std::size_t i = 0; i < a.size(); ++i) count += !(std::abs(a[i] - b[i]) <= 1e-6F);
  return count;
}

TEST(Gptvq, BlocksTilesAndStripsDoNotChangeThePlainPass) {
  backend::Context context(backend::Device::cpu, 2);
  SoloTeam team;
  for (const bool published : {false, true})
    for (const std::int64_t d : {1, 2, 4}) {
      // Past one tile of rows, two blocks within a strip; groups begin within a tile.
      const test::Layer layer = test::make_layer(context, 140, 304, 1, !published);
      QuantParameters p = gptvq_parameters(d == 4 ? 1 : 2, d, 50 * 152);
      auto& own = p.get<GptvqParameters>();
      own.codebook_bits = 16;
      own.codebook_update = false;
      own.strip_passes = published ? 1 : 2;
      own.rule = published ? "published" : "exact";
      p.act_order = !published;
      p.get<VectorParameters>().kmeans_iterations = 6;
      ASSERT_TRUE(check_parameters(p).empty());
      const QuantResult result = gptvq_method().quantize(context, team, layer.input(), p);
      const format::GptvqEncoding e = test::gptvq_of(result.encoding);
      EXPECT_EQ(e.group_columns, 152);
      EXPECT_EQ(e.group_rows, 70);
      const std::vector<float> expected = plain_pass(layer, e, published);
      // fp32 against fp64: a vector between two centroids may fall to the other and then moves what follows in its row.
      EXPECT_LT(count_different(test::decoded(result.encoding), expected), 0.03 * static_cast<double>(expected.size()))
          << d << (published ? ", published" : "");
      const double error = relative_hessian_error(context, 140, 304, layer.weight, expected, layer.hessian.h);
      EXPECT_NEAR(result.relative_error, error, 1e-2 * error);
    }
}

TEST(Gptvq, WithADiagonalHessianEveryVectorTakesTheNearestCentroid) {
  constexpr std::int64_t out = 40, in = 32;
  backend::Context context(backend::Device::cpu, 1);
  SoloTeam team;
  test::Layer layer = test::make_layer(context, out, in, 2, false);
  std::vector<float> lower;
  for (std::int64_t i = 0; i < in; ++i)
    for (std::int64_t j = 0; j <= i; ++j) lower.push_back(i == j ? static_cast<float>(1 + i % 5) : 0.0F);
  layer.hessian = prepare_hessian(context, in, lower, 0, false);
  QuantParameters p = gptvq_parameters(2, 2, 20 * in);
  p.act_order = false;
  p.get<GptvqParameters>().codebook_bits = 16;
  p.get<GptvqParameters>().codebook_update = false;
  const QuantResult result = gptvq_method().quantize(context, team, layer.input(), p);
  const format::GptvqEncoding e = test::gptvq_of(result.encoding);
  const std::vector<float> decoded = test::decoded(result.encoding);
  ASSERT_EQ(e.row_groups(), 2);
  for (std::int64_t row = 0; row < out; ++row)
    for (std::int64_t c = 0; c < in; c += 2) {
      const auto cost = [&](float a, float b) {
        const auto gap = [&](float value, std::int64_t column) {
          return static_cast<double>(layer.weight[core::index(row * in + column)]) - static_cast<double>(value);
        };
        return gap(a, c) * gap(a, c) * static_cast<double>(1 + c % 5) +
               gap(b, c + 1) * gap(b, c + 1) * static_cast<double>(1 + (c + 1) % 5);
      };
      double least = 1e300;
      for (std::int64_t code = 0; code < e.centroids; ++code) {
        const std::int64_t first = (row / e.group_rows * e.centroids + code) * 2;
        least = std::min(least, cost(core::half_to_float(e.codebook[core::index(first)]),
                                     core::half_to_float(e.codebook[core::index(first + 1)])));
      }
      ASSERT_NEAR(cost(decoded[core::index(row * in + c)], decoded[core::index(row * in + c + 1)]), least,
                  1e-6 * least + 1e-12);
    }
}

/// Least squares over all centroids of a layer of one row group, by elimination: what the stored indices allow at best.
std::vector<double> best_centroids(const test::Layer& layer, const format::GptvqEncoding& e) {
  const std::int64_t in = layer.in_features, d = e.vector_columns, n = e.strips() * e.centroids * d;
  std::vector<std::vector<double>> normal(core::index(n), std::vector<double>(core::index(n + 1), 0.0));
  std::vector<std::uint32_t> codes(core::index(e.vectors()));
  const auto words = core::index(core::packed_words(e.vectors(), e.index_bits()));
  for (std::int64_t row = 0; row < e.out_features; ++row) {
    core::unpack_row(std::span(e.indices).subspan(core::index(row) * words, words), e.index_bits(), codes);
    const auto unknown = [&](std::int64_t c) {
      return core::index((c / e.group_columns * e.centroids + codes[core::index(c / d)]) * d + c % d);
    };
    for (std::int64_t a = 0; a < in; ++a)
      for (std::int64_t b = 0; b < in; ++b) {
        const double h = static_cast<double>(
            layer.hessian.h
                .span()[core::index(layer.hessian.perm[core::index(a)] * in + layer.hessian.perm[core::index(b)])]);
        normal[unknown(a)][unknown(b)] += h;
        normal[unknown(a)][core::index(n)] +=
            h * static_cast<double>(layer.weight[core::index(row * in + layer.hessian.perm[core::index(b)])]);
      }
  }
  for (std::int64_t i = 0; i < n; ++i) {
    normal[core::index(i)][core::index(i)] += 1e-12;
    for (std::int64_t r = i + 1; r < n; ++r) {
      const double by = normal[core::index(r)][core::index(i)] / normal[core::index(i)][core::index(i)];
      for (std::int64_t c = i; c <= n; ++c)
        normal[core::index(r)][core::index(c)] -= by * normal[core::index(i)][core::index(c)];
    }
  }
  std::vector<double> solution(core::index(n));
  for (std::int64_t i = n - 1; i >= 0; --i) {
    double value = normal[core::index(i)][core::index(n)];
    for (std::int64_t c = i + 1; c < n; ++c) value -= normal[core::index(i)][core::index(c)] * solution[core::index(c)];
    solution[core::index(i)] = value / normal[core::index(i)][core::index(i)];
  }
  return solution;
}

TEST(Gptvq, TheUpdateIsTheLeastSquaresOfTheIndices) {
  backend::Context context(backend::Device::cpu, 2);
  SoloTeam team;
  const test::Layer layer = test::make_layer(context, 48, 24, 5, true);
  for (const int codebook_bits : {8, 16}) {
    QuantParameters p = gptvq_parameters(2, 2, 48 * 12);
    auto& own = p.get<GptvqParameters>();
    own.group_columns = 12;
    own.codebook_bits = codebook_bits;
    own.codebook_update = false;
    const QuantResult before = gptvq_method().quantize(context, team, layer.input(), p);
    own.codebook_update = true;
    const QuantResult after = gptvq_method().quantize(context, team, layer.input(), p);
    const format::GptvqEncoding e = test::gptvq_of(after.encoding);
    EXPECT_EQ(e.indices, test::gptvq_of(before.encoding).indices);
    EXPECT_LT(after.relative_error, before.relative_error);
    EXPECT_NEAR(after.statistics.at("update_gain"), 1 - after.relative_error / before.relative_error, 1e-3);
    const std::vector<double> best = best_centroids(layer, e);
    std::vector<float> ideal(layer.weight.size());
    std::vector<std::uint32_t> codes(core::index(e.vectors()));
    const auto words = core::index(core::packed_words(e.vectors(), e.index_bits()));
    for (std::int64_t row = 0; row < 48; ++row) {
      core::unpack_row(std::span(e.indices).subspan(core::index(row) * words, words), e.index_bits(), codes);
      for (std::int64_t c = 0; c < 24; ++c)
        ideal[core::index(row * 24 + e.perm[core::index(c)])] =
            static_cast<float>(best[core::index((c / 12 * e.centroids + codes[core::index(c / 2)]) * 2 + c % 2)]);
    }
    const double least = relative_hessian_error(context, 48, 24, layer.weight, ideal, layer.hessian.h);
    EXPECT_GE(after.relative_error, least * (1 - 1e-6));
    EXPECT_NEAR(after.relative_error, least, (codebook_bits == 16 ? 0.01 : 0.05) * least) << codebook_bits;
  }
}

TEST(Gptvq, TheDescentOfTheAuthorsLowersTheErrorToo) {
  backend::Context context(backend::Device::cpu, 1);
  SoloTeam team;
  const test::Layer layer = test::make_layer(context, 64, 64, 6, false);
  QuantParameters p = gptvq_parameters(2, 2, 32 * 64);
  auto& own = p.get<GptvqParameters>();
  p.act_order = false;
  own.rule = "published";
  own.strip_passes = 1;
  own.codebook_update = false;
  const double before = gptvq_method().quantize(context, team, layer.input(), p).relative_error;
  own.codebook_update = true;
  const QuantResult published = gptvq_method().quantize(context, team, layer.input(), p);
  EXPECT_LT(published.relative_error, before);
  EXPECT_GE(published.statistics.at("update_steps"), 25);
}

TEST(Gptvq, BeatsScalarsAtTheSameBits) {
  backend::Context context(backend::Device::cpu, 2);
  SoloTeam team;
  const test::Layer layer = test::make_layer(context, 128, 256, 3, true);
  QuantParameters uniform;
  uniform.get<UniformParameters>().bits = 2;
  uniform.get<UniformParameters>().group_size = 128;
  const QuantResult rtn = rtn_method().quantize(context, team, layer.input(), uniform),
                    gptq = gptq_method().quantize(context, team, layer.input(), uniform);
  double last = gptq.relative_error;
  EXPECT_LT(last, rtn.relative_error);
  for (const std::int64_t d : {1, 2}) {
    const QuantResult result = gptvq_method().quantize(context, team, layer.input(), gptvq_parameters(2, d));
    EXPECT_LT(result.relative_error, last) << d;
    EXPECT_LT(stored_bits(result.encoding), 1.1 * static_cast<double>(stored_bits(gptq.encoding))) << d;
    last = result.relative_error;
  }
  const double wide = gptvq_method().quantize(context, team, layer.input(), gptvq_parameters(2, 4)).relative_error;
  EXPECT_LT(wide, last);
}

TEST(Gptvq, TeamsAndThreadsGiveTheSameBytes) {
  backend::Context context(backend::Device::cpu, 1);
  SoloTeam solo;
  const test::Layer layer = test::make_layer(context, 90, 64, 4, true);
  for (const std::int64_t variant : {0, 16, 1}) {
    QuantParameters p = gptvq_parameters(2, variant == 1 ? 1 : 2, 18 * 64);  // five groups
    p.get<GptvqParameters>().scale_block = variant == 16 ? 16 : 0;
    p.get<GptvqParameters>().codebook_rank = variant == 1 ? 2 : 0;
    const QuantResult alone = gptvq_method().quantize(context, solo, layer.input(), p);
    ASSERT_EQ(format::gptvq_view(alone.encoding).row_groups(), 5);
    for (const int members : {2, 3, 6}) {
      std::vector<QuantResult> results(core::index(members));
      test::run_as_team(members, [&](core::Team& team) {
        backend::Context own(backend::Device::cpu, 2);
        results[core::index(team.rank())] = gptvq_method().quantize(own, team, layer.input(), p);
      });
      for (const QuantResult& result : results) {
        EXPECT_TRUE(result.encoding == alone.encoding) << members << " members";
        EXPECT_EQ(result.relative_error, alone.relative_error);
        EXPECT_EQ(result.statistics, alone.statistics);
      }
    }
  }
}

TEST(Gptvq, BlockScalesHelpRowsOfDifferentSize) {
  backend::Context context(backend::Device::cpu, 1);
  SoloTeam team;
  test::Layer layer = test::make_layer(context, 64, 128, 7, true);
  for (std::int64_t row = 0; row < 64; ++row)
    for (std::int64_t c = 0; c < 128; ++c)
      layer.weight[core::index(row * 128 + c)] *= std::exp2(static_cast<float>(row % 7 - 3));
  QuantParameters p = gptvq_parameters(2, 2);
  const double without = gptvq_method().quantize(context, team, layer.input(), p).relative_error;
  p.get<GptvqParameters>().scale_block = 32;
  const QuantResult with = gptvq_method().quantize(context, team, layer.input(), p);
  EXPECT_LT(with.relative_error, 0.8 * without);
  const format::GptvqEncoding e = test::gptvq_of(with.encoding);
  EXPECT_EQ(e.block_grid.size(), 8U);
}

TEST(Gptvq, BlocksTakeTheNearestOfSixteenScales) {
  // Scales 1, 2 .. 2^15.
  EXPECT_EQ(block_code(1, 2, 0), 0);
  EXPECT_EQ(block_code(1, 2, 5.6F), 2);
  EXPECT_EQ(block_code(1, 2, 5.7F), 3);
  EXPECT_EQ(block_code(1, 2, 1e9F), 15);
  EXPECT_EQ(block_code(1, 1, 3), 0);
  EXPECT_EQ(kernels::block_scale(0.5F, 2, 15), 16384);
  format::GptvqExtents e;
  e.out_features = 3;
  e.in_features = 4;
  e.scale_block = 2;
  // Blocks of columns 2, 0 and 3, 1: largest values 1, 0, 4 and 5, 3, 0.
  const std::vector<float> weight{-1, 5, 0.5F, 2, 0, 3, 0, -1, 4, 0, 3, 0};
  const std::vector<std::int32_t> perm{2, 0, 3, 1};
  const std::vector<std::uint16_t> grid = block_grid_of(e, weight, perm);
  ASSERT_EQ(grid.size(), 4U);
  EXPECT_EQ(core::half_to_float(grid[0]), 1);
  EXPECT_NEAR(core::half_to_float(grid[1]), std::pow(4.0F, 1.0F / 15), 1e-3);
  EXPECT_EQ(core::half_to_float(grid[2]), 3);
  EXPECT_NEAR(core::half_to_float(grid[3]), std::pow(5.0F / 3, 1.0F / 15), 1e-3);
}

TEST(Gptvq, CodebooksOfBytesAreWithinHalfAStep) {
  format::GptvqExtents e;
  e.out_features = 1;
  e.in_features = 4;
  e.vector_columns = 2;
  e.centroids = 4;
  e.group_rows = 1;
  e.group_columns = 4;
  GptvqCodes codes(e, gptvq_groups(e, 0, 1));
  const std::vector<float> fitted{0.3F, -0.1F, 0.07F, 0, -0.3001F, 0.2F, 1e-3F, 0.15F};
  codes.store(0, fitted);
  const float step = core::half_to_float(codes.book_scales[0]) * kernels::kByteStep;
  EXPECT_GE(step * 127, 0.30009F);
  for (std::size_t i = 0; i < fitted.size(); ++i) {
    EXPECT_NEAR(codes.book_values[i], fitted[i], 0.5001F * step);
    EXPECT_EQ(codes.book_values[i], step * static_cast<float>(static_cast<std::int8_t>(codes.codebook8[i])));
  }
  EXPECT_EQ(static_cast<std::int8_t>(codes.codebook8[4]), -127);
}

TEST(Gptvq, TheMetricOfAVectorIsThatOfItsColumnsOneByOne) {
  backend::Context context(backend::Device::cpu, 1);
  const test::Layer layer = test::make_layer(context, 4, 8, 9, true);
  const auto u = layer.hessian.factor.span();
  const VectorMetric exact = vector_metric(8, 4, u, false), published = vector_metric(8, 4, u, true);
  const std::vector<double> gap{0.3, -0.2, 0.5, 0.1};
  for (std::int64_t j = 0; j < 2; ++j) {
    std::vector<double> error;
    for (std::int64_t i = 0; i < 4; ++i) {
      double left = gap[core::index(i)];
      for (std::int64_t l = 0; l < i; ++l)
        left -= error[core::index(l)] * static_cast<double>(u[core::index((4 * j + l) * 8 + 4 * j + i)]);
      error.push_back(left / static_cast<double>(u[core::index((4 * j + i) * 9)]));
      double transformed = 0;
      for (std::int64_t l = 0; l <= i; ++l)
        transformed += static_cast<double>(exact.of_error(j)[i * 4 + l]) * gap[core::index(l)];
      EXPECT_NEAR(transformed, error.back(), 1e-4 * std::abs(error.back()) + 1e-6);
      const float diagonal = u[core::index((4 * j + i) * 9)];
      EXPECT_FLOAT_EQ(published.of_fit(j)[i * 5] * published.of_fit(j)[i * 5], diagonal);
      EXPECT_FLOAT_EQ(published.of_look(j)[i * 5] * published.of_look(j)[i * 5], 1 / diagonal);
      EXPECT_FLOAT_EQ(published.of_error(j)[i * 5], 1 / diagonal);
    }
  }
}

TEST(Gptvq, PapersSettingsHaveTheirBits) {
  struct Setting {
    int bits;
    std::int64_t d, weights;
    double total;
  };
  for (const Setting& s :
       {Setting{2, 1, 256, 2.125}, Setting{2, 2, 2048, 2.125}, Setting{2, 4, 65536, 2.125}, Setting{3, 1, 512, 3.125},
        Setting{3, 2, 8192, 3.125}, Setting{4, 1, 1024, 4.125}, Setting{4, 2, 32768, 4.125}}) {
    QuantParameters p = gptvq_parameters(s.bits, s.d);
    EXPECT_EQ(gptvq_group_weights(p), s.weights);
    p.act_order = false;
    const format::GptvqExtents e = gptvq_extents(p, 4096, 4096);
    EXPECT_EQ(e.group_columns, 256);
    EXPECT_EQ(e.group_rows * e.group_columns, s.weights);
    // The papers do not count the scale of a codebook.
    const double scales = 16.0 / static_cast<double>(s.weights);
    EXPECT_DOUBLE_EQ(static_cast<double>(planned_bits(p, 4096, 4096).total()) / (4096.0 * 4096.0), s.total + scales);
    p.get<GptvqParameters>().scale_block = 64;
    EXPECT_EQ(gptvq_group_weights(p), 2 * s.weights);
  }
}

TEST(Gptvq, OddWidthsAreDividedIntoEqualStrips) {
  const auto extents = [](std::int64_t in, std::int64_t scale_block) {
    QuantParameters p = gptvq_parameters(2, 4);
    p.get<GptvqParameters>().scale_block = scale_block;
    return gptvq_extents(p, 576, in);
  };
  EXPECT_EQ(extents(576, 0).group_columns, 192);
  EXPECT_EQ(extents(576, 64).group_columns, 192);
  EXPECT_EQ(extents(1000, 0).group_columns, 252);
  EXPECT_EQ(extents(1000, 64).group_columns, 256);
  EXPECT_EQ(extents(64, 0).group_columns, 64);
  EXPECT_EQ(extents(576, 0).group_rows, 576);  // no two groups of 65536
  EXPECT_EQ(extents(1536, 0).group_rows, 288);
}

TEST(Gptvq, WhatCannotBeIsRefused) {
  const auto problems = [](const auto& change) {
    QuantParameters p = gptvq_parameters(2, 0);
    change(p, p.get<GptvqParameters>());
    return check_parameters(p).size();
  };
  EXPECT_EQ(problems([](auto&, auto&) {}), 0U);
  EXPECT_EQ(problems([](auto&, auto& own) { own.vector_columns = 3; }), 1U);
  EXPECT_EQ(problems([](auto&, auto& own) { own.codebook_bits = 12; }), 1U);
  EXPECT_EQ(problems([](auto&, auto& own) { own.scale_block = 24; }), 1U);
  EXPECT_EQ(problems([](auto&, auto& own) { own.group_columns = 130; }), 1U);
  EXPECT_EQ(problems([](auto& p, auto& own) {
              p.template get<UniformParameters>().bits = 4;
              own.vector_columns = 4;
            }),
            1U);
  EXPECT_EQ(problems([](auto&, auto& own) { own.rule = "published"; }), 2U);
  EXPECT_EQ(problems([](auto&, auto& own) { own.codebook_rank = 2; }), 1U);
  EXPECT_EQ(problems([](auto&, auto& own) {
              own.codebook_rank = 4;
              own.vector_columns = 1;
            }),
            1U);
  EXPECT_EQ(problems([](auto&, auto& own) {
              own.codebook_rank = 3;
              own.vector_columns = 1;
            }),
            0U);
  EXPECT_FALSE(check_shape(gptvq_parameters(2, 4), 8, 50).empty());
  EXPECT_TRUE(check_shape(gptvq_parameters(2, 2), 8, 50).empty());
}

}  // namespace
}  // namespace voronoi::quant
