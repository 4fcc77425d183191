#include "quant/quip/quip_sharp.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "format/e8p.h"
#include "kernels/kernels.h"
#include "quant/baselines/uniform_method.h"
#include "quant/layers.h"
#include "quant/memory.h"
#include "quant/quip/lattice_codes.h"
#include "quant/site.h"
#include "support/thread_team.h"
#include "support/typed_encoding.h"

namespace voronoi::quant {
namespace {

std::size_t at(std::int64_t i) { return static_cast<std::size_t>(i); }

QuantParameters quip_parameters(int bits, int sweeps = 10) {
  QuantParameters p;
  p.method = "quip_sharp";
  p.get<UniformParameters>().bits = bits;
  p.get<QuipSharpParameters>().sweeps = sweeps;
  return p;
}

/// A layer with its prepared site.
struct QuipSite {
  QuipSite(std::int64_t out, std::int64_t in, const QuantParameters& p, test::SyntheticSpread spread = {})
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

/// A metric of its own [n, n], rows [rows, n] in units of the codebook.
struct RawLattice {
  RawLattice(std::int64_t size, std::int64_t n_rows) : n(size), rows(n_rows) {
    const test::SyntheticLayer layer = test::make_synthetic_layer(n_rows, n, 8, {0, 0, 0.1});
    weight = layer.weight;
    for (float& value : weight) value *= 50;
    h.resize(at(n * n));
    std::size_t next = 0;
    for (std::int64_t i = 0; i < n; ++i)
      for (std::int64_t j = 0; j <= i; ++j) h[at(i * n + j)] = h[at(j * n + i)] = layer.lower[next++];
  }
  double error(const std::vector<double>& what, std::int64_t row, double damping) const {
    double sum = 0;
    for (std::int64_t i = 0; i < n; ++i)
      for (std::int64_t j = 0; j < n; ++j)
        sum += (static_cast<double>(weight[at(row * n + i)]) - what[at(i)]) *
               (static_cast<double>(h[at(i * n + j)]) + (i == j ? damping : 0)) *
               (static_cast<double>(weight[at(row * n + j)]) - what[at(j)]);
    return sum;
  }
  std::int64_t n, rows;
  std::vector<float> weight, h;
};

std::vector<double> values_of(const LatticeCodes& codes, int bits, std::int64_t n, std::int64_t row) {
  std::vector<double> values;
  const std::int64_t n_blocks = core::ceil_div(n, kLatticeDim);
  for (std::int64_t k = 0; k < n_blocks; ++k) {
    float word[kLatticeDim];
    const std::size_t place = at(row * n_blocks + k);
    decode_lattice(bits, codes.codes[place], bits > 2 ? codes.residual[place] : std::uint16_t{0}, word);
    for (std::int64_t i = 0; i < std::min(kLatticeDim, n - k * kLatticeDim); ++i)
      values.push_back(static_cast<double>(word[i]));
  }
  return values;
}

/// Of the vectors below `first` the best values that can be reached, given the errors of those from there on: the
/// target of the block in front of them, by solving for it. Feedback from the last block is just this.
std::vector<double> conditional_target(const RawLattice& raw, double damping, std::int64_t row, std::int64_t first,
                                       const std::vector<double>& what) {
  // minimise over e_< of [e_<, e_>] H [e_<, e_>]^T: H_<< e_< = -H_<> e_>; the target is W - e_<.
  std::vector<std::vector<double>> a(at(first), std::vector<double>(at(first + 1)));
  for (std::int64_t i = 0; i < first; ++i) {
    for (std::int64_t j = 0; j < first; ++j)
      a[at(i)][at(j)] = static_cast<double>(raw.h[at(i * raw.n + j)]) + (i == j ? damping : 0);
    for (std::int64_t j = first; j < raw.n; ++j)
      a[at(i)][at(first)] -= static_cast<double>(raw.h[at(i * raw.n + j)]) *
                             (static_cast<double>(raw.weight[at(row * raw.n + j)]) - what[at(j)]);
  }
  for (std::size_t p = 0; p < a.size(); ++p)
    for (std::size_t i = 0; i < a.size(); ++i) {
      if (i == p) continue;
      const double by = a[i][p] / a[p][p];
      for (std::size_t j = p; j <= a.size(); ++j) a[i][j] -= by * a[p][j];
    }
  std::vector<double> target;
  for (std::int64_t i = 0; i < first; ++i)
    target.push_back(static_cast<double>(raw.weight[at(row * raw.n + i)]) - a[at(i)][at(first)] / a[at(i)][at(i)]);
  return target;
}

TEST(LatticeCodes, FeedbackIsTheBestTargetGivenTheErrorsBehind) {
  core::ThreadPool pool(2);
  for (const std::int64_t n : {40, 44}) {
    const RawLattice raw(n, 3);
    const double damping = 0.02;
    const LatticeMetric metric = lattice_metric(pool, n, raw.h, damping, damping);
    const LatticeCodes codes = lattice_codes(pool, metric, {2, 0}, raw.rows, raw.weight);
    for (std::int64_t row = 0; row < raw.rows; ++row) {
      const std::vector<double> what = values_of(codes, 2, n, row);
      for (std::int64_t first = (n - 1) / 8 * 8; first >= 0; first -= 8) {
        const std::int64_t end = std::min(n, first + 8);
        const std::vector<double> target = conditional_target(raw, damping, row, end, what);
        // The code is the nearest to the last vector of the target.
        double own = 0, least = 1e30;
        for (std::int64_t i = first; i < end; ++i) own += std::pow(target[at(i)] - what[at(i)], 2);
        for (int code = 0; code < 65536; ++code) {
          float word[8];
          kernels::decode_e8p(static_cast<std::uint16_t>(code), word);
          double distance = 0;
          for (std::int64_t i = first; i < end; ++i)
            distance += std::pow(target[at(i)] - static_cast<double>(word[i - first]), 2);
          least = std::min(least, distance);
        }
        ASSERT_NEAR(own, least, 1e-4 * (1 + least)) << "row " << row << ", columns from " << first;
      }
    }
  }
}

TEST(LatticeCodes, SweepsOnlyLowerTheErrorAndTellIt) {
  core::ThreadPool pool(2);
  const std::int64_t n = 300;
  const RawLattice raw(n, 20);
  const double damping = 0.02;
  const LatticeMetric metric = lattice_metric(pool, n, raw.h, damping, damping);
  for (const int bits : {2, 3, 4}) {
    std::vector<double> before(at(raw.rows), 1e30);
    for (const int sweeps : {0, 1, 4}) {
      const LatticeCodes codes = lattice_codes(pool, metric, {bits, sweeps}, raw.rows, raw.weight);
      for (std::int64_t row = 0; row < raw.rows; ++row) {
        const double error = raw.error(values_of(codes, bits, n, row), row, damping);
        EXPECT_LE(error, before[at(row)] * (1 + 1e-6)) << bits << " bits, row " << row;
        before[at(row)] = error;
        if (sweeps == 0) continue;
        EXPECT_NEAR(codes.error_behind[at(row)], error, 1e-3 * error);
        EXPECT_LE(codes.error_behind[at(row)], codes.error_before[at(row)] * (1 + 1e-6));
      }
    }
  }
}

TEST(QuipSharp, StoresWhatWasPlannedAtAnyShape) {
  for (const auto& [out, in] : {std::pair<std::int64_t, std::int64_t>{24, 40}, {33, 45}, {130, 36}})
    for (const int bits : {2, 3, 4}) {
      const QuantParameters p = quip_parameters(bits, 2);
      const QuipSite site(out, in, p);
      core::SoloTeam alone;
      backend::Context context(backend::Device::cpu, 1);
      const QuantResult result = quantize(context, alone, site.input(), p);
      EXPECT_EQ(planned_bits(p, out, in).total(), stored_bits(result.encoding));
      EXPECT_EQ(planned_nominal_bits(p), nominal_bits(result.encoding));
    }
  EXPECT_EQ(planned_bits(quip_parameters(2), 576, 1536).total(), 2 * 576 * 1536 + 576 + 1536 + 32);
}

TEST(QuipSharp, TheErrorIsThatOfTheDecodedWeightInTheModelsOwnMetric) {
  const QuantParameters p = quip_parameters(2);
  const QuipSite site(48, 72, p);
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

TEST(QuipSharp, GivesTheSameBytesOnAnyTeam) {
  for (const int bits : {2, 3}) {
    const QuantParameters p = quip_parameters(bits, 2);
    const QuipSite site(300, 44, p);
    core::SoloTeam solo;
    backend::Context context(backend::Device::cpu, 3);
    const QuantResult alone = quantize(context, solo, site.input(), p);
    for (const int size : {2, 3})
      test::run_as_team(size, [&](core::Team& team) {
        backend::Context own(backend::Device::cpu, 1);
        const QuantResult result = quantize(own, team, site.input(), p);
        EXPECT_TRUE(result.encoding == alone.encoding);
        EXPECT_EQ(result.relative_error, alone.relative_error);
        EXPECT_EQ(result.statistics, alone.statistics);
      });
  }
}

TEST(QuipSharp, TheSeedDecidesTheSignsAndLinearsOfASiteShareTheirInputs) {
  QuantParameters p = quip_parameters(2, 0);
  const QuipSite site(24, 40, p);
  core::SoloTeam alone;
  backend::Context context(backend::Device::cpu, 1);
  const QuantResult up = quantize(context, alone, site.input(), p);
  QuantInput other = site.input();
  other.name = "gate";
  const QuantResult gate = quantize(context, alone, other, p);
  EXPECT_TRUE(std::ranges::equal(format::e8p_view(up.encoding).in_signs, format::e8p_view(gate.encoding).in_signs));
  EXPECT_FALSE(std::ranges::equal(format::e8p_view(up.encoding).out_signs, format::e8p_view(gate.encoding).out_signs));
  p.seed = 1;
  const QuipSite reseeded(24, 40, p);
  const QuantResult again = quantize(context, alone, reseeded.input(), p);
  EXPECT_FALSE(std::ranges::equal(format::e8p_view(up.encoding).in_signs, format::e8p_view(again.encoding).in_signs));
}

TEST(QuipSharp, IsBetterThanRoundingWhereColumnsStandOut) {
  for (const int bits : {2, 3, 4}) {
    const QuantParameters p = quip_parameters(bits);
    const QuipSite site(96, 128, p, {1.0, 0.3, 0.7});
    core::SoloTeam alone;
    backend::Context context(backend::Device::cpu, 2);
    const double ours = quantize(context, alone, site.input(), p).relative_error;
    QuantParameters rounding = p;
    rounding.method = "rtn";
    rounding.get<UniformParameters>().group_size = 64;  // and a quarter of a bit more than ours
    const PreparedHessian plain = prepare_hessian(context, 128, site.layer.lower, 0.01, false);
    QuantInput input = site.input();
    input.hessian = &plain;
    input.site = nullptr;
    EXPECT_LT(ours, 0.5 * quantize(context, alone, input, rounding).relative_error) << bits;
  }
}

TEST(QuipSharp, PlansWhatItHoldsAndTakes) {
  const QuantParameters p = quip_parameters(2);
  const std::vector<OperatorShape> operators{{"up", 1024}};
  const std::int64_t weight = std::int64_t{4} * 1024 * 512, square = std::int64_t{512} * 512;
  // Weight, turned on one side, on both; Hessian and factor, and the feedback's own in fp64 and fp32.
  EXPECT_GE(site_memory(p, 512, operators, {}, 2, 1).bytes, 3 * weight + (8 + 12) * square);
  EXPECT_GE(host_staging(p, 512, operators, {}), 3 * weight + 16 * square);
  EXPECT_GT(operator_work(p, 1024, 512).refine.flops(), operator_work(quip_parameters(2, 1), 1024, 512).refine.flops());
  EXPECT_GT(operator_work(quip_parameters(3), 1024, 512).column_loop.nearest,
            operator_work(p, 1024, 512).column_loop.nearest);
}

TEST(QuipSharp, AWeightOfZerosStaysOne) {
  const QuantParameters p = quip_parameters(3);
  QuipSite site(16, 24, p);
  std::fill(site.layer.weight.begin(), site.layer.weight.end(), 0.0F);
  core::SoloTeam alone;
  backend::Context context(backend::Device::cpu, 1);
  const QuantResult result = quantize(context, alone, site.input(), p);
  EXPECT_EQ(result.relative_error, 0);
  for (const float value : test::decoded(result.encoding)) ASSERT_EQ(value, 0);
}

}  // namespace
}  // namespace voronoi::quant
