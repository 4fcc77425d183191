#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <numeric>

#include "core/index.h"
#include "core/random.h"
#include "quant/aqlm/additive_fit.h"
#include "quant/aqlm/additive_rows.h"
#include "quant/aqlm/additive_start.h"
#include "quant/aqlm/aqlm_method.h"
#include "quant/aqlm/beam_sweep.h"
#include "quant/baselines/uniform_method.h"
#include "quant/layers.h"
#include "quant/vq/vector_parameters.h"
#include "support/thread_team.h"
#include "support/typed_encoding.h"

namespace voronoi::quant {
namespace {

using core::index;
using core::SoloTeam;

QuantParameters aqlm_parameters(std::int64_t codebooks, std::int64_t code_bits, std::int64_t in_group) {
  QuantParameters p;
  p.method = "aqlm";
  p.get<AqlmParameters>().codebooks = codebooks;
  p.get<AqlmParameters>().code_bits = code_bits;
  p.get<AqlmParameters>().in_group = in_group;
  return p;
}

/// A layer with numbers and codes drawn at random.
struct RandomRows {
  RandomRows(std::int64_t out, std::int64_t in, std::int64_t books, std::int64_t bits, std::int64_t group,
             std::uint64_t seed)
      : layer(test::make_layer(context, out, in, seed, false)), input(layer.input()) {
    format::AqlmExtents e;
    e.out_features = out;
    e.in_features = in;
    e.codebooks = books;
    e.code_bits = bits;
    e.in_group = group;
    rows = std::make_unique<AdditiveRows>(context.pool(), team, input, layer.hessian.h.span(), e);
    const core::CounterRandom random(seed, 3);
    std::uint64_t counter = 0;
    for (float& value : rows->numbers.books)
      value = core::round_to(core::DType::f16, static_cast<float>(random.uniform(++counter) - 0.5));
    for (float& value : rows->numbers.scale)
      value = core::round_to(core::DType::f16, 0.03F + 0.03F * static_cast<float>(random.uniform(++counter)));
    for (std::uint16_t& code : rows->numbers.codes)
      code = static_cast<std::uint16_t>(random.below(++counter, std::uint64_t{1} << bits));
  }

  /// By the definition, in fp64, of a row with these codes.
  double loss(std::int64_t row, const std::vector<std::uint16_t>& codes, const std::vector<double>& books,
              double scale) const {
    const format::AqlmExtents& e = rows->extents();
    std::vector<double> d;
    for (std::int64_t c = 0; c < e.in_features; ++c) {
      double sum = 0;
      for (std::int64_t m = 0; m < e.codebooks; ++m)
        sum += books[index((m * e.centroids() + codes[index(c / e.in_group * e.codebooks + m)]) * e.in_group +
                           c % e.in_group)];
      d.push_back(static_cast<double>(layer.weight[index(row * e.in_features + c)]) - scale * sum);
    }
    double total = 0;
    for (std::int64_t a = 0; a < e.in_features; ++a)
      for (std::int64_t b = 0; b < e.in_features; ++b)
        total += d[index(a)] * d[index(b)] * static_cast<double>(layer.hessian.h.span()[index(a * e.in_features + b)]);
    return total;
  }
  std::vector<std::uint16_t> codes_of(std::int64_t row) const {
    const std::int64_t n = rows->extents().groups() * rows->extents().codebooks;
    const auto first = rows->numbers.codes.begin() + row * n;
    return {first, first + n};
  }
  std::vector<double> books() const { return {rows->numbers.books.begin(), rows->numbers.books.end()}; }
  double scale(std::int64_t row) const { return static_cast<double>(rows->numbers.scale[index(row)]); }

  backend::Context context{backend::Device::cpu, 2};
  SoloTeam team;
  test::Layer layer;
  QuantInput input;
  std::unique_ptr<AdditiveRows> rows;
};

TEST(Aqlm, TheLossIsThatOfTheDefinition) {
  RandomRows random(20, 24, 2, 3, 4, 1);
  const std::vector<double> losses = random.rows->evaluate();
  for (std::int64_t row = 0; row < 20; ++row) {
    const double expected = random.loss(row, random.codes_of(row), random.books(), random.scale(row));
    EXPECT_NEAR(losses[index(row)], expected, 1e-5 * expected);
  }
}

/// Every candidate of every step by its whole loss; states of a row as the search keeps them.
std::vector<std::uint16_t> plain_search(const RandomRows& random, std::int64_t row,
                                        const std::vector<std::int32_t>& order, int beam) {
  const format::AqlmExtents& e = random.rows->extents();
  struct State {
    double loss;
    std::vector<std::uint16_t> codes;
  };
  std::vector<State> states{{0, random.codes_of(row)}};
  for (const std::int32_t j : order)
    for (std::int64_t m = 0; m < e.codebooks; ++m) {
      std::vector<State> next;
      for (const State& state : states)
        for (std::int64_t code = 0; code < e.centroids(); ++code) {
          State candidate = state;
          candidate.codes[index(j * e.codebooks + m)] = static_cast<std::uint16_t>(code);
          candidate.loss = random.loss(row, candidate.codes, random.books(), random.scale(row));
          next.push_back(std::move(candidate));
        }
      std::stable_sort(next.begin(), next.end(), [](const State& a, const State& b) { return a.loss < b.loss; });
      if (std::ssize(next) > beam) next.resize(index(beam));
      states = std::move(next);
    }
  return states.front().codes;
}

TEST(Aqlm, TheSearchTakesTheLeastOfAllLosses) {
  for (const int beam : {1, 3})
    // More columns than a block of 64, so that changes reach the rest by both ways; groups in their order and in
    // another.
    for (const bool turned : {false, true}) {
      RandomRows random(beam == 1 ? 10 : 4, 80, 2, 2, 8, turned ? 2 : 5);
      std::vector<std::int32_t> order(10);
      std::iota(order.begin(), order.end(), 0);
      if (turned) std::rotate(order.begin(), order.begin() + 4, order.end());
      std::vector<std::vector<std::uint16_t>> expected;
      for (std::int64_t row = 0; row < random.rows->rows(); ++row)
        expected.push_back(plain_search(random, row, order, beam));
      random.rows->evaluate();
      sweep_codes(*random.rows, random.rows->hessian(), order, beam);
      int different = 0;
      for (std::int64_t row = 0; row < random.rows->rows(); ++row) {
        if (random.codes_of(row) == expected[index(row)]) continue;
        // fp32 against fp64: two codes may be as good as each other.
        ++different;
        const double ours = random.loss(row, random.codes_of(row), random.books(), random.scale(row)),
                     theirs = random.loss(row, expected[index(row)], random.books(), random.scale(row));
        EXPECT_NEAR(ours, theirs, 0.02 * theirs) << row;
      }
      EXPECT_LE(different, 1) << beam;
    }
}

TEST(Aqlm, AWiderBeamFindsCodesOfLessError) {
  std::vector<double> sums;
  for (const int beam : {1, 4, 16}) {
    RandomRows random(40, 64, 2, 4, 8, 9);
    random.rows->evaluate();
    std::vector<std::int32_t> order(8);
    std::iota(order.begin(), order.end(), 0);
    sweep_codes(*random.rows, random.rows->hessian(), order, beam);
    sums.push_back(random.rows->sum_of_rows(random.rows->evaluate()));
  }
  EXPECT_LT(sums[1], sums[0]);
  EXPECT_LT(sums[2], sums[1]);
}

/// Least squares over all codebooks, by elimination with a little added to the diagonal: codebooks that are added up
/// leave directions free.
std::vector<double> best_books(const RandomRows& random) {
  const format::AqlmExtents& e = random.rows->extents();
  const std::int64_t n = random.rows->unknowns(), in = e.in_features;
  std::vector<std::vector<double>> normal(index(n), std::vector<double>(index(n + 1), 0.0));
  for (std::int64_t row = 0; row < e.out_features; ++row) {
    const auto codes = random.codes_of(row);
    const auto place = [&](std::int64_t c, std::int64_t m) {
      return index((m * e.centroids() + codes[index(c / e.in_group * e.codebooks + m)]) * e.in_group + c % e.in_group);
    };
    for (std::int64_t a = 0; a < in; ++a)
      for (std::int64_t b = 0; b < in; ++b) {
        const double h = static_cast<double>(random.layer.hessian.h.span()[index(a * in + b)]) * random.scale(row);
        for (std::int64_t m = 0; m < e.codebooks; ++m) {
          for (std::int64_t l = 0; l < e.codebooks; ++l) normal[place(a, m)][place(b, l)] += h * random.scale(row);
          normal[place(a, m)][index(n)] += h * static_cast<double>(random.layer.weight[index(row * in + b)]);
        }
      }
  }
  double largest = 0;
  for (std::int64_t i = 0; i < n; ++i) largest = std::max(largest, normal[index(i)][index(i)]);
  for (std::int64_t i = 0; i < n; ++i) {
    normal[index(i)][index(i)] += 1e-9 * largest;
    for (std::int64_t r = i + 1; r < n; ++r) {
      const double by = normal[index(r)][index(i)] / normal[index(i)][index(i)];
      for (std::int64_t c = i; c <= n; ++c) normal[index(r)][index(c)] -= by * normal[index(i)][index(c)];
    }
  }
  std::vector<double> solution(index(n));
  for (std::int64_t i = n - 1; i >= 0; --i) {
    double value = normal[index(i)][index(n)];
    for (std::int64_t c = i + 1; c < n; ++c) value -= normal[index(i)][index(c)] * solution[index(c)];
    solution[index(i)] = value / normal[index(i)][index(i)];
  }
  return solution;
}

TEST(Aqlm, TheFitIsTheLeastSquaresOfTheCodes) {
  RandomRows random(60, 24, 2, 2, 4, 4);
  random.rows->evaluate();
  const std::vector<std::int32_t> order{0, 1, 2, 3, 4, 5};
  sweep_codes(*random.rows, random.rows->hessian(), order, 1);  // codes of chance would want scales below 0
  const std::vector<double> before = random.rows->evaluate(), books = best_books(random);
  double least = 0;
  for (std::int64_t row = 0; row < 60; ++row) least += random.loss(row, random.codes_of(row), books, random.scale(row));
  std::int64_t steps = 0;
  const double after = random.rows->sum_of_rows(fit_numbers(*random.rows, before, steps));
  EXPECT_GT(steps, 0);
  EXPECT_LT(after, random.rows->sum_of_rows(before));
  // The codebooks nearly as good as they can be; then scales that may only help.
  EXPECT_LT(after, 1.02 * least);
  for (std::int64_t row = 0; row < 60; ++row) {
    const float scale = random.rows->numbers.scale[index(row)];
    const auto loss = [&](float s) {
      return random.loss(row, random.codes_of(row), random.books(), static_cast<double>(s));
    };
    if (loss(0) < loss(scale * 0.1F)) continue;  // the best one is below 0, and is not taken
    for (const float other : {scale * 1.02F, scale * 0.98F}) EXPECT_GE(loss(other), loss(scale) * (1 - 1e-5)) << row;
  }
  for (const float value : random.rows->numbers.books) EXPECT_EQ(value, core::round_to(core::DType::f16, value));
}

TEST(Aqlm, ThePublishedDescentIsAdamOnCodebooksAndScales) {
  RandomRows random(12, 16, 2, 2, 4, 6);
  const std::int64_t in = 16, out = 12, unknowns = random.rows->unknowns();
  std::vector<double> books = random.books(), scale(12);
  for (std::int64_t row = 0; row < out; ++row) scale[index(row)] = random.scale(row);
  std::vector<double> square(index(unknowns + out)), largest(square.size());
  for (int step = 1; step <= 5; ++step) {
    std::vector<double> gradient(square.size());
    for (std::int64_t row = 0; row < out; ++row) {
      const auto codes = random.codes_of(row);
      std::vector<double> sums(index(in)), d(index(in));
      const auto place = [&](std::int64_t c, std::int64_t m) {
        return index((m * 4 + codes[index(c / 4 * 2 + m)]) * 4 + c % 4);
      };
      for (std::int64_t c = 0; c < in; ++c) {
        sums[index(c)] = books[place(c, 0)] + books[place(c, 1)];
        d[index(c)] =
            static_cast<double>(random.layer.weight[index(row * in + c)]) - scale[index(row)] * sums[index(c)];
      }
      for (std::int64_t a = 0; a < in; ++a) {
        double slope = 0;
        for (std::int64_t b = 0; b < in; ++b)
          slope += -2 * static_cast<double>(random.layer.hessian.h.span()[index(a * in + b)]) * d[index(b)] /
                   static_cast<double>(out);
        for (std::int64_t m = 0; m < 2; ++m) gradient[place(a, m)] += slope * scale[index(row)];
        gradient[index(unknowns + row)] += slope * sums[index(a)];
      }
    }
    for (std::size_t i = 0; i < gradient.size(); ++i) {
      square[i] = 0.95 * square[i] + 0.05 * gradient[i] * gradient[i];
      largest[i] = std::max(largest[i], square[i]);
      const double by = 1e-4 * gradient[i] / (std::sqrt(largest[i]) / std::sqrt(1 - std::pow(0.95, step)) + 1e-8);
      (i < index(unknowns) ? books[i] : scale[i - index(unknowns)]) -= by;
    }
  }
  random.rows->evaluate();
  AdditiveDescent descent(*random.rows);
  descent.run(*random.rows, 2);
  const std::vector<double> losses = descent.run(*random.rows, 3);  // goes on where it was
  for (std::size_t i = 0; i < books.size(); ++i)
    EXPECT_NEAR(static_cast<double>(random.rows->numbers.books[i]), books[i], 2e-6) << i;
  for (std::size_t i = 0; i < scale.size(); ++i)
    EXPECT_NEAR(static_cast<double>(random.rows->numbers.scale[i]), scale[i], 2e-6) << i;
  EXPECT_EQ(losses, random.rows->evaluate());
}

TEST(Aqlm, TheStartIsResidualKmeansOverTheLengthsOfRows) {
  // Four vectors, in rows of different length, each with a small one of two beside it: two codebooks hold them all.
  constexpr std::int64_t out = 16, in = 32;
  RandomRows random(out, in, 2, 2, 8, 7);
  const core::CounterRandom draw(1, 2);
  std::uint64_t counter = 0;
  std::vector<float> large(32), small(32);
  for (float& value : large) value = static_cast<float>(draw.uniform(++counter) - 0.5);
  for (float& value : small) value = 0.001F * static_cast<float>(draw.uniform(++counter) - 0.5);
  for (std::int64_t row = 0; row < out; ++row)
    for (std::int64_t c = 0; c < in; ++c) {
      // Every row has all four, so that all are as long but for the small ones.
      const std::int64_t first = (c / 8 + row) % 4, second = (row / 4 + c / 8) % 4;
      random.layer.weight[index(row * in + c)] =
          (1.0F + static_cast<float>(row)) * (large[index(first * 8 + c % 8)] + small[index(second * 8 + c % 8)]);
    }
  random.input = random.layer.input();
  AdditiveRows rows(random.context.pool(), random.team, random.input, random.layer.hessian.h.span(),
                    random.rows->extents());
  for (const bool published : {false, true}) {
    start_codes(random.context, rows, {100, 0, 1, 2, published});
    for (std::int64_t row = 0; row < out; ++row) {
      double square = 0;
      for (std::int64_t c = 0; c < in; ++c)
        square += std::pow(static_cast<double>(random.layer.weight[index(row * in + c)]), 2);
      EXPECT_NEAR(static_cast<double>(rows.numbers.scale[index(row)]), std::sqrt(square), 1e-3 * std::sqrt(square));
    }
    double energy = 0, error = 0;
    rows.evaluate();
    for (const float value : random.layer.weight) energy += static_cast<double>(value) * static_cast<double>(value);
    for (const float value : rows.matrix()) error += static_cast<double>(value) * static_cast<double>(value);
    EXPECT_LT(error, 2e-6 * energy) << published;
  }
}

TEST(Aqlm, RoundsNeverRaiseTheErrorAndTheBeamLowersIt) {
  backend::Context context(backend::Device::cpu, 2);
  SoloTeam team;
  const test::Layer layer = test::make_layer(context, 96, 128, 3, true);
  QuantParameters p = aqlm_parameters(2, 5, 8);
  p.damping = 0;
  auto& own = p.get<AqlmParameters>();
  own.tolerance = 0;
  double last = 1;
  for (const int rounds : {0, 1, 2, 4, 8}) {
    own.rounds = rounds;
    const QuantResult result = aqlm_method().quantize(context, team, layer.input(), p);
    EXPECT_LE(result.relative_error, last * (1 + 1e-4)) << rounds;
    EXPECT_EQ(result.statistics.at("rounds"), rounds);
    last = result.relative_error;
  }
  own.tolerance = 0.01;
  own.rounds = 30;
  const QuantResult settled = aqlm_method().quantize(context, team, layer.input(), p);
  EXPECT_GT(settled.statistics.at("rounds"), 1);
  EXPECT_LT(settled.statistics.at("rounds"), 30);
  own.beam = 4;
  EXPECT_LT(aqlm_method().quantize(context, team, layer.input(), p).relative_error, settled.relative_error);
}

TEST(Aqlm, BeatsThePublishedRuleAndItsStart) {
  backend::Context context(backend::Device::cpu, 2);
  SoloTeam team;
  const test::Layer layer = test::make_layer(context, 192, 128, 5, true);
  QuantParameters p = aqlm_parameters(2, 6, 8);  // 1.5 bits of codes
  const QuantResult exact = aqlm_method().quantize(context, team, layer.input(), p);
  p.get<AqlmParameters>().rule = "published";
  p.get<AqlmParameters>().rounds = 4;
  const QuantResult published = aqlm_method().quantize(context, team, layer.input(), p);
  EXPECT_LT(exact.relative_error, published.relative_error);
  p = aqlm_parameters(2, 6, 8);
  p.get<AqlmParameters>().rounds = 0;
  EXPECT_LT(exact.relative_error, 0.9 * aqlm_method().quantize(context, team, layer.input(), p).relative_error);
}

TEST(Aqlm, TeamsAndThreadsGiveTheSameBytes) {
  backend::Context context(backend::Device::cpu, 1);
  SoloTeam solo;
  const test::Layer layer = test::make_layer(context, 90, 64, 4, true);
  for (const char* rule : {"exact", "published"}) {
    QuantParameters p = aqlm_parameters(2, 4, 8);
    p.get<AqlmParameters>().rule = rule;
    p.get<AqlmParameters>().rounds = 2;
    p.get<AqlmParameters>().beam = 2;
    const QuantResult alone = aqlm_method().quantize(context, solo, layer.input(), p);
    for (const int members : {2, 3, 7}) {  // five pieces of rows
      std::vector<QuantResult> results(index(members));
      test::run_as_team(members, [&](core::Team& team) {
        backend::Context own(backend::Device::cpu, 2);
        results[index(team.rank())] = aqlm_method().quantize(own, team, layer.input(), p);
      });
      for (const QuantResult& result : results) {
        EXPECT_TRUE(result.encoding == alone.encoding) << rule << ", " << members << " members";
        EXPECT_EQ(result.relative_error, alone.relative_error);
        EXPECT_EQ(result.statistics, alone.statistics);
      }
    }
  }
}

TEST(Aqlm, StoresWhatItsCheckpointsHold) {
  // A row of 4096: codes, two codebooks of 256 x 8, scales.
  const StoredBits small = planned_bits(aqlm_parameters(2, 8, 8), 4096, 4096),
                   large = planned_bits(aqlm_parameters(1, 16, 8), 4096, 4096);
  EXPECT_EQ(small.indices, 4096 * 512 * 2 * 8);
  EXPECT_EQ(small.codebooks, 2 * 256 * 8 * 16);
  EXPECT_EQ(small.scales, 4096 * 16);
  EXPECT_EQ(large.indices, 4096 * 512 * 16);
  EXPECT_EQ(large.codebooks, 65536 * 8 * 16);
  // Codes of 9 bits fill 16, of 5 bits 8.
  EXPECT_EQ(planned_bits(aqlm_parameters(1, 9, 8), 64, 64).indices, 64 * 8 * 16);
  EXPECT_EQ(planned_bits(aqlm_parameters(1, 5, 8), 64, 64).indices, 64 * 8 * 8);
  EXPECT_FALSE(check_shape(aqlm_parameters(2, 8, 8), 64, 60).empty());
  EXPECT_FALSE(check_shape(aqlm_parameters(2, 16, 8), 512, 512).empty());  // 32768 vectors
  EXPECT_TRUE(check_shape(aqlm_parameters(2, 8, 8), 64, 64).empty());
}

}  // namespace
}  // namespace voronoi::quant
