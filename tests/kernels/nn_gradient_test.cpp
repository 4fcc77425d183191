// Derivatives against central differences of the operations' definitions in fp64; attention's against its own formula
// in fp64, which is held against differences too.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>
#include <vector>

#include "kernels/gradients.h"

namespace voronoi::kernels {
namespace {

Doubles norm_rows(const Doubles& x, const Doubles& weight, std::size_t n_rows, double eps) {
  const std::size_t dim = weight.size();
  Doubles out(n_rows * dim);
  for (std::size_t r = 0; r < n_rows; ++r) {
    double squares = 0;
    for (std::size_t i = 0; i < dim; ++i) squares += x[r * dim + i] * x[r * dim + i];
    for (std::size_t i = 0; i < dim; ++i)
      out[r * dim + i] = weight[i] * x[r * dim + i] / std::sqrt(squares / static_cast<double>(dim) + eps);
  }
  return out;
}

/// [n_rows, dim] with rows `ld` apart, 7 between them; and back.
std::vector<float> spread(const std::vector<float>& x, std::int64_t dim, std::int64_t ld) {
  std::vector<float> rows;
  for (std::size_t first = 0; first < x.size(); first += static_cast<std::size_t>(dim)) {
    rows.insert(rows.end(), x.begin() + static_cast<std::ptrdiff_t>(first),
                x.begin() + static_cast<std::ptrdiff_t>(first) + dim);
    rows.insert(rows.end(), static_cast<std::size_t>(ld - dim), 7.0F);
  }
  return rows;
}
std::vector<float> gathered(const std::vector<float>& rows, std::int64_t dim, std::int64_t ld) {
  std::vector<float> x;
  for (auto row = rows.begin(); row != rows.end(); row += ld) {
    x.insert(x.end(), row, row + dim);
    for (auto between = row + dim; between != row + ld; ++between) EXPECT_EQ(*between, 7.0F) << "wrote between rows";
  }
  return x;
}

TEST_F(NnGradient, RmsNorm) {
  for (const std::int64_t dim : {1, 7, 16, 54, 100}) {
    const std::int64_t n_rows = 3;
    const float eps = 0.01F;
    const std::vector<float> x = random_floats(n_rows * dim, 1), weight = random_floats(dim, 2),
                             d_out = random_floats(n_rows * dim, 3), before = random_floats(n_rows * dim, 4);
    const Doubles dx = differences(widened(x), [&](const Doubles& at) {
      return inner(d_out, norm_rows(at, widened(weight), n_rows, static_cast<double>(eps)));
    });
    Doubles d_weight = differences(widened(weight), [&](const Doubles& at) {
      return inner(d_out, norm_rows(widened(x), at, n_rows, static_cast<double>(eps)));
    });
    const std::vector<float> x_rows = spread(x, dim, dim + 3), d_rows = spread(d_out, dim, dim + 1);
    std::vector<float> out = spread(before, dim, dim + 2), sum(static_cast<std::size_t>(dim), 5.0F);
    nn_.rms_norm(exec_, n_rows, dim, x_rows.data(), dim + 3, weight.data(), eps, d_rows.data(), dim + 1, false,
                 out.data(), dim + 2, sum.data());
    expect_close(gathered(out, dim, dim + 2), dx);
    for (double& value : d_weight) value += 5;
    expect_close(sum, d_weight);

    std::vector<float> added = spread(before, dim, dim + 2), in_place = d_rows;
    nn_.rms_norm(exec_, n_rows, dim, x_rows.data(), dim + 3, weight.data(), eps, d_rows.data(), dim + 1, true,
                 added.data(), dim + 2, nullptr);
    for (std::int64_t r = 0; r < n_rows; ++r)
      for (std::int64_t i = 0; i < dim; ++i) {
        const auto at = static_cast<std::size_t>(r * (dim + 2) + i);
        EXPECT_NEAR(added[at], before[static_cast<std::size_t>(r * dim + i)] + out[at], 1e-6);
      }
    nn_.rms_norm(exec_, n_rows, dim, x_rows.data(), dim + 3, weight.data(), eps, in_place.data(), dim + 1, false,
                 in_place.data(), dim + 1, nullptr);
    EXPECT_EQ(gathered(in_place, dim, dim + 1), gathered(out, dim, dim + 2));
  }
}

TEST_F(NnGradient, SumsOverManyRowsDoNotDependOnThreads) {
  for (const std::int64_t dim : {33, 576, 1500}) {
    const std::int64_t n_rows = 3000;
    const std::vector<float> x = random_floats(n_rows * dim, 5), weight = random_floats(dim, 6),
                             d_out = random_floats(n_rows * dim, 7);
    std::vector<float> dx(x.size()), dx_alone(x.size()), sum(weight.size()), alone(weight.size()),
        columns(weight.size()), columns_alone(weight.size());
    nn_.rms_norm(exec_, n_rows, dim, x.data(), dim, weight.data(), 1e-5F, d_out.data(), dim, false, dx.data(), dim,
                 sum.data());
    nn_.rms_norm(single_, n_rows, dim, x.data(), dim, weight.data(), 1e-5F, d_out.data(), dim, false, dx_alone.data(),
                 dim, alone.data());
    EXPECT_EQ(sum, alone);
    EXPECT_EQ(dx, dx_alone);
    nn_.column_sums(exec_, n_rows, dim, x.data(), dim, columns.data());
    nn_.column_sums(single_, n_rows, dim, x.data(), dim, columns_alone.data());
    EXPECT_EQ(columns, columns_alone);
    Doubles expected(weight.size());
    for (std::size_t i = 0; i < x.size(); ++i) expected[i % expected.size()] += static_cast<double>(x[i]);
    expect_close(columns, expected, 1e-5);
  }
}

TEST_F(NnGradient, ColumnSumsAddToWhatIsThere) {
  const std::vector<float> x{1, 2, 7, 3, 4, 7};
  std::vector<float> sum{10, 20};
  nn_.column_sums(exec_, 2, 2, x.data(), 3, sum.data());
  EXPECT_EQ(sum, (std::vector<float>{14, 26}));
}

TEST_F(NnGradient, SquareSumsAreOfEachRow) {
  const std::vector<float> x{1, 2, 7, 3, -4, 7};
  std::vector<float> sum{10, 20};
  nn_.square_sums(exec_, 2, 2, x.data(), 3, sum.data());
  EXPECT_EQ(sum, (std::vector<float>{5, 25}));
  const std::int64_t n_rows = 300, dim = 577;
  const std::vector<float> many = random_floats(n_rows * dim, 4);
  std::vector<float> sums(static_cast<std::size_t>(n_rows)), alone(sums.size());
  nn_.square_sums(exec_, n_rows, dim, many.data(), dim, sums.data());
  nn_.square_sums(single_, n_rows, dim, many.data(), dim, alone.data());
  EXPECT_EQ(sums, alone);
  Doubles expected(sums.size());
  for (std::size_t i = 0; i < many.size(); ++i)
    expected[i / static_cast<std::size_t>(dim)] += static_cast<double>(many[i]) * static_cast<double>(many[i]);
  expect_close(sums, expected, 1e-5);
}

TEST_F(NnGradient, RopeIsTheTransposeOfTheForwardTurn) {
  for (const std::int64_t head_dim : {2, 8, 22, 64}) {
    const std::int64_t n_tokens = 5, n_rows = 10, n_heads = 3, width = n_heads * head_dim, ld = width + 3;
    const std::vector<float> table = random_floats(n_tokens * head_dim, 8), x = random_floats(n_rows * width, 9),
                             d_out = random_floats(n_rows * width, 10);
    std::vector<float> out = x, back = spread(d_out, width, ld);
    cpu().nn.rope(exec_, {n_rows, n_tokens, n_heads, head_dim, head_dim}, table.data(), out.data(), width);
    nn_.rope(exec_, {n_rows, n_tokens, n_heads, head_dim, head_dim}, table.data(), back.data(), ld);
    const std::vector<float> dx = gathered(back, width, ld);
    for (std::int64_t r = 0; r < n_rows; ++r) {
      double forward = 0, backward = 0;
      for (std::int64_t i = 0; i < width; ++i) {
        const auto at = static_cast<std::size_t>(r * width + i);
        forward += static_cast<double>(d_out[at]) * static_cast<double>(out[at]);
        backward += static_cast<double>(dx[at]) * static_cast<double>(x[at]);
      }
      EXPECT_NEAR(forward, backward, 1e-4 * static_cast<double>(width));
    }
    // Not only along x: one component apart.
    std::vector<float> unit(x.size(), 0.0F);
    unit[1] = 1;
    cpu().nn.rope(exec_, {n_rows, n_tokens, n_heads, head_dim, head_dim}, table.data(), unit.data(), width);
    double forward = 0;
    for (std::size_t i = 0; i < unit.size(); ++i)
      forward += static_cast<double>(d_out[i]) * static_cast<double>(unit[i]);
    EXPECT_NEAR(dx[1], forward, 1e-5);
  }
}

using GateGradient = void (*)(const Exec&, std::int64_t, const float*, const float*, const float*, float*, float*);

void check_gate(const Exec& exec, GateGradient kernel, const std::function<double(double)>& gate_function) {
  std::vector<float> gate{-1e30F, -200, -90, -20, -6, -1, -1e-20F, 0, 1e-20F, 1, 6, 20, 90, 200, 1e30F};
  const std::size_t n_odd = gate.size();
  const std::vector<float> more = random_floats(500, 11, 3.0F);
  gate.insert(gate.end(), more.begin(), more.end());
  const auto n = static_cast<std::int64_t>(gate.size());
  const std::vector<float> up = random_floats(n, 12), d_out = random_floats(n, 13);
  std::vector<float> d_gate(gate.size()), d_up(gate.size()), in_place = d_out, d_up_again(gate.size());
  kernel(exec, n, gate.data(), up.data(), d_out.data(), d_gate.data(), d_up.data());
  for (std::size_t i = 0; i < gate.size(); ++i) {
    const double g = static_cast<double>(gate[i]), u = static_cast<double>(up[i]), d = static_cast<double>(d_out[i]);
    EXPECT_NEAR(d_up[i], d * gate_function(g), 2e-6 * std::abs(d * gate_function(g)) + 1e-6) << gate[i];
    const double slope = i < n_odd && std::abs(g) > 80
                             ? (g > 0 ? 1 : 0)
                             : differences({g}, [&](const Doubles& at) { return gate_function(at[0]); })[0];
    EXPECT_NEAR(d_gate[i], d * u * slope, 3e-6 * std::max(1.0, std::abs(d * u))) << gate[i];
  }
  kernel(exec, n, gate.data(), up.data(), in_place.data(), in_place.data(), d_up_again.data());
  EXPECT_EQ(in_place, d_gate);
  EXPECT_EQ(d_up_again, d_up);
}

TEST_F(NnGradient, SwigluFromTinyToHugeGates) {
  check_gate(exec_, nn_.swiglu, [](double g) { return g / (1 + std::exp(-g)); });
}

TEST_F(NnGradient, GegluFromTinyToHugeGates) {
  check_gate(exec_, nn_.geglu, [](double g) {
    return 0.5 * g * (1 + std::tanh(std::sqrt(2 / std::acos(-1.0)) * (g + 0.044715 * g * g * g)));
  });
}

TEST_F(NnGradient, SoftCapAndSigmoidTakeTheirValues) {
  const std::vector<float> x = random_floats(40003, 14, 3.0F), d_out = random_floats(40003, 15);
  std::vector<float> capped, squashed, d_cap = d_out, d_sigmoid = d_out;
  Doubles cap_expected, sigmoid_expected;
  for (std::size_t i = 0; i < x.size(); ++i) {
    const double value = static_cast<double>(x[i]), d = static_cast<double>(d_out[i]);
    capped.push_back(static_cast<float>(3 * std::tanh(value / 3)));
    squashed.push_back(static_cast<float>(1 / (1 + std::exp(-value))));
    cap_expected.push_back(d / std::pow(std::cosh(value / 3), 2));
    sigmoid_expected.push_back(d / (2 + 2 * std::cosh(value)));
  }
  nn_.soft_cap(exec_, 40003, 3.0F, capped.data(), d_cap.data());
  nn_.sigmoid(exec_, 40003, squashed.data(), d_sigmoid.data());
  expect_close(d_cap, cap_expected);
  expect_close(d_sigmoid, sigmoid_expected);
}

TEST_F(NnGradient, RouteHoldsTheChoiceConstant) {
  for (const bool renormalise : {false, true}) {
    const std::int64_t n_rows = 5, n_experts = 9, top_k = 3;
    const std::vector<float> logits = random_floats(n_rows * n_experts, 16, 2.0F),
                             d_weight = random_floats(n_rows * top_k, 17);
    std::vector<std::int32_t> expert(static_cast<std::size_t>(n_rows * top_k));
    std::vector<float> weight(expert.size()), d_logits(logits.size(), 99.0F);
    cpu().nn.route(exec_, {n_rows, n_experts, top_k, renormalise}, logits.data(), nullptr, expert.data(),
                   weight.data());
    nn_.route(exec_, {n_rows, n_experts, top_k, renormalise}, logits.data(), expert.data(), weight.data(),
              d_weight.data(), d_logits.data());
    const Doubles expected = differences(widened(logits), [&](const Doubles& at) {
      double loss = 0;
      for (std::size_t r = 0; r < 5; ++r) {
        double all = 0, chosen = 0;
        for (std::size_t e = 0; e < 9; ++e) all += std::exp(at[r * 9 + e]);
        const auto share = [&](std::size_t j) {
          return std::exp(at[r * 9 + static_cast<std::size_t>(expert[r * 3 + j])]);
        };
        for (std::size_t j = 0; j < 3; ++j) chosen += share(j);
        for (std::size_t j = 0; j < 3; ++j)
          loss += static_cast<double>(d_weight[r * 3 + j]) * share(j) / (renormalise ? chosen : all);
      }
      return loss;
    });
    expect_close(d_logits, expected);
  }
}

TEST_F(NnGradient, WeightedRowsAndScatterRows) {
  const std::vector<float> x{1, 2, 3, 10, 20, 30}, weight{0.5F, 2}, d_out{100, 100, 200, 7, 7, 7, 1, 2, 3};
  const std::vector<std::int32_t> row{2, 0};
  std::vector<float> dx = x, d_weight(2);
  nn_.weighted_rows(exec_, 2, 3, dx.data(), row.data(), weight.data(), d_out.data(), dx.data(), d_weight.data());
  EXPECT_EQ(dx, (std::vector<float>{0.5F, 1, 1.5F, 200, 200, 400}));
  EXPECT_EQ(d_weight, (std::vector<float>{14, 9000}));
  nn_.weighted_rows(exec_, 2, 3, x.data(), nullptr, weight.data(), d_out.data(), dx.data(), d_weight.data());
  EXPECT_EQ(dx, (std::vector<float>{50, 50, 100, 14, 14, 14}));
  EXPECT_EQ(d_weight, (std::vector<float>{900, 420}));

  const std::int64_t n_ids = 700, dim = 133;
  std::vector<std::int32_t> ids;
  for (std::int32_t i = 0; i < n_ids; ++i) ids.push_back(i * i % 13);
  const std::vector<float> rows = random_floats(n_ids * dim, 18);
  std::vector<float> sum(13 * 133, 1.0F), in_order = sum;
  nn_.scatter_rows(exec_, ids.data(), n_ids, dim, rows.data(), sum.data());
  for (std::size_t i = 0; i < ids.size(); ++i)
    for (std::size_t c = 0; c < 133; ++c) in_order[static_cast<std::size_t>(ids[i]) * 133 + c] += rows[i * 133 + c];
  EXPECT_EQ(sum, in_order);
}

TEST_F(NnGradient, CrossEntropyGivesSoftmaxMinusTargetAndTheForwardsLoss) {
  for (const std::int64_t vocab : {1, 15, 157, 4099}) {
    const std::int64_t n_rows = 3, ld = vocab + 2;
    std::vector<float> logits = random_floats(n_rows * vocab, 19, 3.0F);
    for (std::int64_t i = 0; i < vocab; ++i) logits[static_cast<std::size_t>(i)] += 3000.0F;
    const std::vector<std::int32_t> target{0, static_cast<std::int32_t>(vocab - 1),
                                           static_cast<std::int32_t>(vocab / 2)};
    std::vector<float> rows = spread(logits, vocab, ld);
    std::vector<double> nll(3), forward(3);
    cpu().nn.nll(exec_, n_rows, vocab, rows.data(), ld, target.data(), forward.data());
    nn_.cross_entropy(exec_, n_rows, vocab, 0.25F, target.data(), rows.data(), ld, nll.data());
    EXPECT_EQ(nll, forward);
    Doubles expected;
    for (std::size_t r = 0; r < 3; ++r) {
      const float* row = logits.data() + r * static_cast<std::size_t>(vocab);
      const double largest = static_cast<double>(*std::max_element(row, row + vocab));
      double sum = 0;
      for (std::int64_t j = 0; j < vocab; ++j) sum += std::exp(static_cast<double>(row[j]) - largest);
      for (std::int64_t j = 0; j < vocab; ++j)
        expected.push_back(0.25 * (std::exp(static_cast<double>(row[j]) - largest) / sum - (j == target[r] ? 1 : 0)));
    }
    expect_close(gathered(rows, vocab, ld), expected);
  }
}

TEST_F(NnGradient, DivergenceGivesTheDifferenceOfTheSoftmaxes) {
  for (const std::int64_t vocab : {1, 15, 157, 4099}) {
    const std::int64_t n_rows = 2, ld = vocab + 2;
    const std::vector<float> teacher = random_floats(n_rows * vocab, 20, 3.0F);
    std::vector<float> logits = teacher;
    const std::vector<float> moved = random_floats(n_rows * vocab, 21, 0.3F);
    for (std::size_t i = 0; i < logits.size(); ++i) logits[i] += moved[i] + 40.0F;
    std::vector<float> rows = spread(logits, vocab, ld);
    const std::vector<float> teacher_rows = spread(teacher, vocab, ld);
    std::vector<double> divergence(2);
    nn_.divergence(exec_, n_rows, vocab, 0.5F, teacher_rows.data(), rows.data(), ld, divergence.data());
    Doubles expected;
    for (std::size_t r = 0; r < 2; ++r) {
      const std::size_t first = r * static_cast<std::size_t>(vocab), last = first + static_cast<std::size_t>(vocab);
      double p_sum = 0, q_sum = 0, kl = 0;
      for (std::size_t i = first; i < last; ++i) {
        p_sum += std::exp(static_cast<double>(teacher[i]));
        q_sum += std::exp(static_cast<double>(logits[i]));
      }
      for (std::size_t i = first; i < last; ++i) {
        const double p = std::exp(static_cast<double>(teacher[i])) / p_sum,
                     q = std::exp(static_cast<double>(logits[i])) / q_sum;
        kl += p * std::log(p / q);
        expected.push_back(0.5 * (q - p));
      }
      EXPECT_NEAR(divergence[r], kl, 1e-12);
    }
    expect_close(gathered(rows, vocab, ld), expected, 1e-5);
  }
}

}  // namespace
}  // namespace voronoi::kernels
