#include "format/trellis.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "quant/baselines/uniform_method.h"
#include "quant/layers.h"
#include "quant/memory.h"
#include "quant/site.h"
#include "quant/trellis/trellis_codes.h"
#include "quant/trellis/trellis_method.h"
#include "support/thread_team.h"
#include "support/typed_encoding.h"

namespace voronoi::quant {
namespace {

std::size_t spot(std::int64_t i) { return static_cast<std::size_t>(i); }

QuantParameters trellis_parameters(int bits, int sweeps = 2) {
  QuantParameters p;
  p.method = "trellis";
  p.get<UniformParameters>().bits = bits;
  p.get<TrellisParameters>().sweeps = sweeps;
  p.get<TrellisParameters>().state_bits = 12;
  return p;
}

/// A layer with its prepared site.
struct TrellisSite {
  TrellisSite(std::int64_t out, std::int64_t in, const QuantParameters& p, test::SyntheticSpread spread = {})
      : layer(test::make_synthetic_layer(out, in, 5, spread)) {
    SiteInput input;
    input.name = "block 0 mlp";
    input.in_features = in;
    input.linears = {{"up", out}};
    input.moments.plain = layer.lower;
    core::SoloTeam team;
    prepared = prepare_site(context, team, std::move(input), p);
  }
  QuantInput input() const {
    return {"up",
            layer.out_features,
            layer.in_features,
            layer.weight,
            &prepared.hessian,
            core::DType::f16,
            prepared.state.get()};
  }
  test::SyntheticLayer layer;
  backend::Context context{backend::Device::cpu, 2};
  PreparedSite prepared;
};

/// A metric of its own, rows in units of the code.
struct RawTrellis {
  RawTrellis(std::int64_t n_rows, std::int64_t size) : rows(n_rows), n(size) {
    const test::SyntheticLayer layer = test::make_synthetic_layer(n_rows, n, 8, {0, 0, 0.1});
    hessian = prepare_hessian(context, n, layer.lower, 0.02, true);
    h = hessian.h.to_host();
    weight = layer.weight;
    double squares = 0;
    for (const float value : weight) squares += static_cast<double>(value) * static_cast<double>(value);
    for (float& value : weight) value *= static_cast<float>(std::sqrt(static_cast<double>(weight.size()) / squares));
  }
  TrellisCodes codes(const TrellisSettings& settings) {
    core::SoloTeam team;
    return trellis_codes(context, team, hessian, settings, TrellisPart(rows, 0, 1), weight);
  }
  std::vector<float> values(const TrellisSettings& settings, const std::vector<std::uint16_t>& codes) const {
    format::TrellisEncoding e;
    e.out_features = rows;
    e.in_features = n;
    e.bits = settings.bits;
    e.state_bits = settings.state_bits;
    e.codes = codes;
    e.scale = {1};
    return test::decoded(format::to_encoding(e));
  }
  double error(const std::vector<float>& what, const std::vector<float>& metric, double added) const {
    double sum = 0;
    for (std::int64_t row = 0; row < rows; ++row)
      for (std::int64_t i = 0; i < n; ++i)
        for (std::int64_t j = 0; j < n; ++j)
          sum += gap(what, row, i) * (static_cast<double>(metric[spot(i * n + j)]) + (i == j ? added : 0)) *
                 gap(what, row, j);
    return sum;
  }
  double gap(const std::vector<float>& what, std::int64_t row, std::int64_t c) const {
    return static_cast<double>(weight[spot(row * n + c)] - what[spot(row * n + c)]);
  }
  std::int64_t rows, n;
  backend::Context context{backend::Device::cpu, 2};
  PreparedHessian hessian;
  std::vector<float> weight, h;
};

/// Of column perm[place] of a row the best value, given the errors of the columns before it, by solving for those from
/// there on.
double target_behind(const RawTrellis& raw, const std::vector<float>& what, std::int64_t row, std::int64_t place) {
  double mean = 0;
  for (std::int64_t i = 0; i < raw.n; ++i) mean += static_cast<double>(raw.h[spot(i * raw.n + i)]);
  const double damping = 0.02 * mean / static_cast<double>(raw.n);
  const std::size_t size = spot(raw.n - place);
  const auto column = [&](std::int64_t i) { return std::int64_t{raw.hessian.perm[spot(i)]}; };
  const auto h = [&](std::int64_t i, std::int64_t j) {
    return static_cast<double>(raw.h[spot(column(i) * raw.n + column(j))]) + (i == j ? damping : 0);
  };
  std::vector<std::vector<double>> a(size, std::vector<double>(size + 1));
  for (std::size_t i = 0; i < size; ++i) {
    for (std::size_t j = 0; j < size; ++j)
      a[i][j] = h(place + static_cast<std::int64_t>(i), place + static_cast<std::int64_t>(j));
    for (std::int64_t j = 0; j < place; ++j)
      a[i][size] -= h(place + static_cast<std::int64_t>(i), j) * raw.gap(what, row, column(j));
  }
  for (std::size_t p = 0; p < size; ++p)
    for (std::size_t i = 0; i < size; ++i) {
      if (i == p) continue;
      const double by = a[i][p] / a[p][p];
      for (std::size_t j = p; j <= size; ++j) a[i][j] -= by * a[p][j];
    }
  return static_cast<double>(raw.weight[spot(row * raw.n + column(place))]) - a[0][size] / a[0][0];
}

TEST(TrellisCodes, FeedbackSearchesTheBestTargetGivenTheErrorsBefore) {
  RawTrellis raw(24, 40);
  const TrellisSettings settings{2, 12, kernels::TrellisCode::mul1, 0};
  const std::vector<float> what = raw.values(settings, raw.codes(settings).codes);
  for (const std::int64_t place : {0, 1, 17, 39}) {
    std::vector<float> target;
    double own = 0;
    for (std::int64_t row = 0; row < raw.rows; ++row) {
      const double wanted = target_behind(raw, what, row, place);
      target.push_back(static_cast<float>(wanted));
      own += std::pow(wanted - static_cast<double>(what[spot(row * raw.n + raw.hessian.perm[spot(place)])]), 2);
    }
    std::vector<std::uint8_t> symbols(32);
    std::vector<float> value(32);
    const std::int32_t begin[2] = {0, 32};
    raw.context.trellis().search(raw.context.exec(), {2, 12, settings.code, false, false}, 1, begin, raw.rows,
                                 target.data(), symbols.data(), value.data());
    double found = 0;
    for (std::size_t row = 0; row < target.size(); ++row)
      found += std::pow(static_cast<double>(target[row] - value[row]), 2);
    EXPECT_NEAR(own, found, 0.003 * found) << place;
  }
}

TEST(TrellisCodes, SweepsOnlyLowerTheErrorAndTellIt) {
  RawTrellis raw(40, 150);
  for (const int bits : {1, 2, 3}) {
    double before = 0;
    for (const int sweeps : {0, 1, 3}) {
      const TrellisSettings settings{bits, 12, kernels::TrellisCode::mul1, sweeps};
      const TrellisCodes codes = raw.codes(settings);
      const double error = raw.error(raw.values(settings, codes.codes), raw.h, raw.hessian.added);
      if (sweeps > 0) {
        EXPECT_LT(error, before) << bits;
        EXPECT_NEAR(codes.error_behind, error, 1e-3 * error);
        EXPECT_LT(codes.error_behind, codes.error_before);
        EXPECT_GE(codes.sweeps_kept, 1);
      }
      before = error;
    }
  }
}

/// Held-out tokens of moment(i, j), columns of the model.
template <class Moment>
void keep_out(RawTrellis& raw, const Moment& moment) {
  std::vector<float> metric;
  for (const std::int32_t i : raw.hessian.perm)
    for (const std::int32_t j : raw.hessian.perm) metric.push_back(static_cast<float>(moment(i, j)));
  raw.hessian.held_out = backend::Array<float>(raw.context, std::span<const float>(metric));
}

TEST(TrellisCodes, ASweepThatHeldOutTokensGainNothingFromIsUndone) {
  const TrellisSettings plain{2, 12, kernels::TrellisCode::mul1, 0}, swept{2, 12, kernels::TrellisCode::mul1, 2};
  RawTrellis raw(40, 64);
  const TrellisCodes before = raw.codes(plain), alone = raw.codes(swept);
  ASSERT_GE(alone.sweeps_kept, 1);
  // They agree with the other tokens.
  keep_out(raw, [&](std::int64_t i, std::int64_t j) { return raw.h[spot(i * raw.n + j)]; });
  EXPECT_EQ(raw.codes(swept).codes, alone.codes);
  // All lie where no error is, of none of the rows: 40 conditions on 64 numbers, by Gram and Schmidt. Any change is a
  // loss.
  const std::vector<float> what = raw.values(plain, before.codes);
  std::vector<std::vector<double>> basis;
  std::vector<double> direction(spot(raw.n));
  for (std::int64_t row = 0; row <= raw.rows; ++row) {
    std::vector<double> v(spot(raw.n));
    for (std::int64_t c = 0; c < raw.n; ++c)
      v[spot(c)] = row < raw.rows ? raw.gap(what, row, c) : 1 + static_cast<double>(c % 5);
    for (int twice = 0; twice < 2; ++twice)
      for (const std::vector<double>& other : basis) {
        double along = 0;
        for (std::size_t c = 0; c < v.size(); ++c) along += v[c] * other[c];
        for (std::size_t c = 0; c < v.size(); ++c) v[c] -= along * other[c];
      }
    double squares = 0;
    for (const double value : v) squares += value * value;
    for (double& value : v) value /= std::sqrt(squares);
    basis.push_back(v);
    direction = v;
  }
  keep_out(raw, [&](std::int64_t i, std::int64_t j) { return direction[spot(i)] * direction[spot(j)]; });
  const TrellisCodes kept = raw.codes(swept);
  EXPECT_EQ(kept.sweeps_kept, 0);
  EXPECT_EQ(kept.codes, before.codes);
  EXPECT_EQ(kept.error_behind, kept.error_before);
}

TEST(Trellis, StoresWhatWasPlannedAtAnyShape) {
  for (const auto& [out, in] : {std::pair<std::int64_t, std::int64_t>{24, 40}, {33, 45}, {1, 36}})
    for (const int bits : {1, 2, 5}) {
      const QuantParameters p = trellis_parameters(bits, 1);
      const TrellisSite site(out, in, p);
      core::SoloTeam alone;
      backend::Context context(backend::Device::cpu, 1);
      const QuantResult result = quantize(context, alone, site.input(), p);
      EXPECT_EQ(planned_bits(p, out, in).total(), stored_bits(result.encoding));
      const auto tuned = result.encoding.format->tuned(context, result.encoding);
      const std::vector<float> moved(static_cast<std::size_t>(tuned->n_parameters()), 0.5F);
      EXPECT_EQ(planned_tuned_bits(p, out, in).total(), stored_bits(tuned->rounded(moved)));
      EXPECT_EQ(planned_nominal_bits(p), nominal_bits(result.encoding));
    }
  EXPECT_EQ(planned_bits(trellis_parameters(2), 576, 1536).total(), 2 * 576 * 1536 + 576 + 1536 + 32);
}

TEST(Trellis, TheErrorIsThatOfTheDecodedWeightInTheModelsOwnMetric) {
  const QuantParameters p = trellis_parameters(2);
  const TrellisSite site(48, 72, p);
  core::SoloTeam alone;
  backend::Context context(backend::Device::cpu, 1);
  const QuantResult result = quantize(context, alone, site.input(), p);
  const PreparedHessian plain = prepare_hessian(context, 72, site.layer.lower, 0.01, false);
  const double error =
      relative_hessian_error(context, 48, 72, site.layer.weight, test::decoded(result.encoding), plain.h);
  EXPECT_NEAR(result.relative_error, error, 1e-4 * error);
  EXPECT_EQ(result.statistics.at("rotation_parts_in"), 1);
  EXPECT_GT(result.statistics.at("sweeps_gain"), 0);
}

TEST(Trellis, GivesTheSameBytesOnAnyTeam) {
  const QuantParameters p = trellis_parameters(2);
  const TrellisSite site(300, 20, p);
  core::SoloTeam solo;
  backend::Context context(backend::Device::cpu, 3);
  const QuantResult alone = quantize(context, solo, site.input(), p);
  for (const int size : {2, 5})  // of two tiles
    test::run_as_team(size, [&](core::Team& team) {
      backend::Context own(backend::Device::cpu, 1);
      const QuantResult result = quantize(own, team, site.input(), p);
      EXPECT_TRUE(result.encoding == alone.encoding);
      EXPECT_EQ(result.relative_error, alone.relative_error);
      EXPECT_EQ(result.statistics, alone.statistics);
    });
}

TEST(Trellis, IsBetterThanLatticeCodesAndMuchBetterThanRounding) {
  for (const int bits : {2, 3}) {
    QuantParameters p = trellis_parameters(bits);
    p.get<TrellisParameters>().state_bits = 14;
    const TrellisSite site(96, 128, p, {1.0, 0.3, 0.7});
    core::SoloTeam alone;
    backend::Context context(backend::Device::cpu, 2);
    const double ours = quantize(context, alone, site.input(), p).relative_error;
    QuantParameters other = p;
    other.method = "quip_sharp";
    EXPECT_LT(ours, 0.92 * quantize(context, alone, site.input(), other).relative_error) << bits;
    other.method = "rtn";
    other.get<UniformParameters>().group_size = 64;  // and a quarter of a bit more than ours
    const PreparedHessian plain = prepare_hessian(context, 128, site.layer.lower, 0.01, false);
    QuantInput input = site.input();
    input.hessian = &plain;
    input.site = nullptr;
    EXPECT_LT(ours, 0.45 * quantize(context, alone, input, other).relative_error) << bits;
  }
}

TEST(Trellis, PlansWhatItHoldsAndTakes) {
  const QuantParameters p = trellis_parameters(2);
  const std::vector<OperatorShape> operators{{"up", 1024}};
  const std::int64_t weight = std::int64_t{4} * 1024 * 512, square = std::int64_t{512} * 512;
  // Weight, turned on one side, on both, then what the loop keeps; Hessian, factor and the metric of sweeps.
  EXPECT_GE(site_memory(p, 512, operators, {}, 2, 1).bytes, 6 * weight + 12 * square);
  EXPECT_GT(operator_work(p, 1024, 512).refine.flops(),
            operator_work(trellis_parameters(2, 1), 1024, 512).refine.flops());
  QuantParameters wide = p;
  wide.get<TrellisParameters>().state_bits = 16;
  EXPECT_NEAR(operator_work(wide, 1024, 512).refine.nearest, 16 * operator_work(p, 1024, 512).refine.nearest, 1);
  // States of 5 bits a weight are of 15 at least.
  EXPECT_EQ(operator_work(trellis_parameters(5), 1024, 512).refine.nearest,
            8 * operator_work(p, 1024, 512).refine.nearest);
}

TEST(Trellis, AWeightOfZerosStaysOne) {
  const QuantParameters p = trellis_parameters(3);
  TrellisSite site(16, 24, p);
  std::fill(site.layer.weight.begin(), site.layer.weight.end(), 0.0F);
  core::SoloTeam alone;
  backend::Context context(backend::Device::cpu, 1);
  const QuantResult result = quantize(context, alone, site.input(), p);
  EXPECT_EQ(result.relative_error, 0);
  for (const float value : test::decoded(result.encoding)) ASSERT_EQ(value, 0);
}

}  // namespace
}  // namespace voronoi::quant
