// Derivatives against central differences of the operations' definitions in fp64; attention's against its own formula
// in fp64, which is held against differences too.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>
#include <random>
#include <vector>

#include "core/thread_pool.h"
#include "kernels/kernels.h"

namespace voronoi::kernels {
namespace {

using Doubles = std::vector<double>;

std::vector<float> random_floats(std::int64_t n, std::uint32_t seed, float deviation = 1.0F) {
  std::mt19937 engine(seed);
  std::normal_distribution<float> normal(0.0F, deviation);
  std::vector<float> values(static_cast<std::size_t>(n));
  for (float& value : values) value = normal(engine);
  return values;
}

Doubles widened(const std::vector<float>& x) { return Doubles(x.begin(), x.end()); }

double inner(const std::vector<float>& d_out, const Doubles& out) {
  double sum = 0;
  for (std::size_t i = 0; i < out.size(); ++i) sum += static_cast<double>(d_out[i]) * out[i];
  return sum;
}

/// d loss / d x, by four points.
Doubles differences(const Doubles& x, const std::function<double(const Doubles&)>& loss) {
  constexpr double kStep = 1e-3;
  Doubles gradient, at = x;
  for (std::size_t i = 0; i < x.size(); ++i) {
    const auto moved = [&](double by) {
      at[i] = x[i] + by;
      return loss(at);
    };
    gradient.push_back((8 * (moved(kStep) - moved(-kStep)) - (moved(2 * kStep) - moved(-2 * kStep))) / (12 * kStep));
    at[i] = x[i];
  }
  return gradient;
}

/// Within `tolerance` of the largest, which counts as `least` at least.
void expect_close(const std::vector<float>& actual, const Doubles& expected, double tolerance = 2e-6,
                  double least = 1e-30) {
  ASSERT_EQ(actual.size(), expected.size());
  double largest = least;
  for (const double value : expected) largest = std::max(largest, std::abs(value));
  for (std::size_t i = 0; i < actual.size(); ++i)
    ASSERT_NEAR(actual[i], expected[i], tolerance * largest) << "at " << i << ", largest " << largest;
}

class NnGradient : public ::testing::Test {
 protected:
  core::ThreadPool pool_{2}, single_pool_{1};
  Exec exec_{&pool_, nullptr}, single_{&single_pool_, nullptr};
  const NnGradientKernels& nn_ = cpu().nn_gradient;
};

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

TEST_F(NnGradient, RopeIsTheTransposeOfTheForwardTurn) {
  for (const std::int64_t head_dim : {2, 8, 22, 64}) {
    const std::int64_t n_tokens = 5, n_rows = 10, n_heads = 3, width = n_heads * head_dim, ld = width + 3;
    const std::vector<float> table = random_floats(n_tokens * head_dim, 8), x = random_floats(n_rows * width, 9),
                             d_out = random_floats(n_rows * width, 10);
    std::vector<float> out = x, back = spread(d_out, width, ld);
    cpu().nn.rope(exec_, n_rows, n_tokens, n_heads, head_dim, table.data(), out.data(), width);
    nn_.rope(exec_, n_rows, n_tokens, n_heads, head_dim, table.data(), back.data(), ld);
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
    cpu().nn.rope(exec_, n_rows, n_tokens, n_heads, head_dim, table.data(), unit.data(), width);
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
    cpu().nn.route(exec_, n_rows, n_experts, top_k, renormalise, logits.data(), expert.data(), weight.data());
    nn_.route(exec_, n_rows, n_experts, top_k, renormalise, logits.data(), expert.data(), weight.data(),
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

struct AttentionCase {
  std::int64_t n_sequences, n_tokens, n_heads, n_kv_heads, head_dim, window;
  float softcap = 0;
};

void PrintTo(const AttentionCase& c, std::ostream* stream) {
  *stream << c.n_sequences << " x " << c.n_tokens << " tokens, " << c.n_heads << "/" << c.n_kv_heads << " heads of "
          << c.head_dim << ", window " << c.window << ", soft cap " << c.softcap;
}

struct AttentionGradients {
  Doubles dq, dk, dv;
};

/// The definition, in fp64: rows of q, k, v with the strides of `s`. Returns sum(d_out * out).
double attention_definition(const AttentionShape& s, const Doubles& q, const Doubles& k, const Doubles& v,
                            const std::vector<float>& d_out, AttentionGradients* gradients, Doubles* out) {
  double loss = 0;
  const double scale = static_cast<double>(s.scale), cap = static_cast<double>(s.softcap);
  for (std::int64_t sequence = 0; sequence < s.n_sequences; ++sequence)
    for (std::int64_t h = 0; h < s.n_heads; ++h)
      for (std::int64_t i = 0; i < s.n_tokens; ++i) {
        const std::int64_t kv = h / (s.n_heads / s.n_kv_heads),
                           first = s.window > 0 ? std::max<std::int64_t>(0, i - s.window + 1) : 0;
        const auto q_at = static_cast<std::size_t>((sequence * s.n_tokens + i) * s.ld_q + h * s.head_dim),
                   out_at = static_cast<std::size_t>((sequence * s.n_tokens + i) * s.ld_out + h * s.head_dim),
                   dim = static_cast<std::size_t>(s.head_dim);
        const auto kv_at = [&](std::int64_t j) {
          return static_cast<std::size_t>((sequence * s.n_tokens + j) * s.ld_kv + kv * s.head_dim);
        };
        Doubles share, slope, d_share;
        double largest = -1e300, sum = 0, mean = 0;
        for (std::int64_t j = first; j <= i; ++j) {
          double score = 0, d = 0;
          for (std::size_t c = 0; c < dim; ++c) {
            score += scale * q[q_at + c] * k[kv_at(j) + c];
            d += static_cast<double>(d_out[out_at + c]) * v[kv_at(j) + c];
          }
          slope.push_back(cap > 0 ? 1 / std::pow(std::cosh(score / cap), 2) : 1);
          share.push_back(cap > 0 ? cap * std::tanh(score / cap) : score);
          d_share.push_back(d);
          largest = std::max(largest, share.back());
        }
        for (double& value : share) sum += value = std::exp(value - largest);
        for (std::size_t j = 0; j < share.size(); ++j) mean += d_share[j] * (share[j] /= sum);
        loss += mean;
        for (std::size_t j = 0; j < share.size(); ++j) {
          const std::size_t at = kv_at(first + static_cast<std::int64_t>(j));
          const double d_score = share[j] * (d_share[j] - mean) * slope[j] * scale;
          for (std::size_t c = 0; c < dim; ++c) {
            if (out != nullptr) (*out)[out_at + c] += share[j] * v[at + c];
            if (gradients == nullptr) continue;
            gradients->dq[q_at + c] += d_score * k[at + c];
            gradients->dk[at + c] += d_score * q[q_at + c];
            gradients->dv[at + c] += share[j] * static_cast<double>(d_out[out_at + c]);
          }
        }
      }
  return loss;
}

AttentionShape shape_of(const AttentionCase& c, bool fused) {
  AttentionShape shape{};
  shape.n_sequences = c.n_sequences;
  shape.n_tokens = c.n_tokens;
  shape.n_heads = c.n_heads;
  shape.n_kv_heads = c.n_kv_heads;
  shape.head_dim = c.head_dim;
  shape.window = c.window;
  shape.scale = 1.5F / std::sqrt(static_cast<float>(c.head_dim));
  shape.ld_q = fused ? (c.n_heads + 2 * c.n_kv_heads) * c.head_dim : c.n_heads * c.head_dim + 1;
  shape.ld_kv = fused ? shape.ld_q : c.n_kv_heads * c.head_dim + 3;
  shape.ld_out = c.n_heads * c.head_dim + 2;
  shape.softcap = c.softcap;
  return shape;
}

class AttentionGradient : public NnGradient, public ::testing::WithParamInterface<AttentionCase> {};

TEST_P(AttentionGradient, EqualsTheDefinition) {
  const AttentionShape s = shape_of(GetParam(), false);
  const std::int64_t n_rows = s.n_sequences * s.n_tokens;
  const std::vector<float> q = random_floats(n_rows * s.ld_q, 22), k = random_floats(n_rows * s.ld_kv, 23),
                           v = random_floats(n_rows * s.ld_kv, 24), d_out = random_floats(n_rows * s.ld_out, 25);
  std::vector<float> out(d_out.size()), dq(q.size()), dk(k.size()), dv(v.size());
  cpu().nn.attention(exec_, s, q.data(), k.data(), v.data(), out.data());
  nn_.attention(exec_, s, q.data(), k.data(), v.data(), out.data(), d_out.data(), dq.data(), dk.data(), dv.data());
  AttentionGradients expected{Doubles(q.size()), Doubles(k.size()), Doubles(v.size())};
  attention_definition(s, widened(q), widened(k), widened(v), d_out, &expected, nullptr);
  expect_close(dq, expected.dq, 3e-6, 1.0);
  expect_close(dk, expected.dk, 3e-6, 1.0);
  expect_close(dv, expected.dv, 3e-6, 1.0);
  std::vector<float> dq_alone(q.size()), dk_alone(k.size()), dv_alone(v.size());
  nn_.attention(single_, s, q.data(), k.data(), v.data(), out.data(), d_out.data(), dq_alone.data(), dk_alone.data(),
                dv_alone.data());
  EXPECT_EQ(dq, dq_alone) << "depends on the number of threads";
  EXPECT_EQ(dk, dk_alone);
  EXPECT_EQ(dv, dv_alone);
}

INSTANTIATE_TEST_SUITE_P(Shapes, AttentionGradient,
                         ::testing::Values(AttentionCase{1, 1, 1, 1, 2, 0}, AttentionCase{3, 7, 4, 2, 10, 0},
                                           AttentionCase{2, 40, 7, 1, 22, 11}, AttentionCase{1, 257, 2, 1, 64, 0},
                                           AttentionCase{2, 300, 3, 3, 8, 0}, AttentionCase{1, 600, 2, 2, 16, 37},
                                           AttentionCase{1, 700, 1, 1, 128, 256}, AttentionCase{1, 513, 2, 1, 18, 300},
                                           AttentionCase{1, 300, 1, 1, 34, 1}, AttentionCase{1, 70, 1, 1, 300, 0},
                                           AttentionCase{2, 300, 4, 2, 20, 0, 1.5F},
                                           AttentionCase{1, 600, 2, 1, 16, 37, 30.0F},
                                           AttentionCase{1, 2900, 1, 1, 4, 0}));

TEST_F(NnGradient, AttentionsFormulaIsThatOfDifferences) {
  const AttentionShape s = shape_of({2, 6, 4, 2, 3, 4, 1.5F}, false);
  const std::int64_t n_rows = s.n_sequences * s.n_tokens;
  const Doubles q = widened(random_floats(n_rows * s.ld_q, 26)), k = widened(random_floats(n_rows * s.ld_kv, 27)),
                v = widened(random_floats(n_rows * s.ld_kv, 28));
  const std::vector<float> d_out = random_floats(n_rows * s.ld_out, 29);
  AttentionGradients formula{Doubles(q.size()), Doubles(k.size()), Doubles(v.size())};
  attention_definition(s, q, k, v, d_out, &formula, nullptr);
  const auto expect_equal = [](const Doubles& a, const Doubles& b) {
    for (std::size_t i = 0; i < a.size(); ++i) ASSERT_NEAR(a[i], b[i], 1e-9) << i;
  };
  const auto loss = [&](const Doubles& a, const Doubles& b, const Doubles& c) {
    return attention_definition(s, a, b, c, d_out, nullptr, nullptr);
  };
  expect_equal(formula.dq, differences(q, [&](const Doubles& at) { return loss(at, k, v); }));
  expect_equal(formula.dk, differences(k, [&](const Doubles& at) { return loss(q, at, v); }));
  expect_equal(formula.dv, differences(v, [&](const Doubles& at) { return loss(q, k, at); }));
}

TEST_F(NnGradient, AttentionInColumnsOfOneMatrix) {
  const AttentionCase c{2, 90, 4, 2, 12, 0};
  const AttentionShape fused = shape_of(c, true), apart = shape_of(c, false);
  const std::int64_t n_rows = 180, q_dim = 48, kv_dim = 24;
  const std::vector<float> qkv = random_floats(n_rows * fused.ld_q, 30),
                           d_out = random_floats(n_rows * fused.ld_out, 31);
  std::vector<float> q(static_cast<std::size_t>(n_rows * apart.ld_q)),
      k(static_cast<std::size_t>(n_rows * apart.ld_kv)), v(k.size()), dq(q.size()), dk(k.size()), dv(k.size()),
      out(d_out.size()), d_qkv(qkv.size());
  const auto copy = [&](const std::vector<float>& from, std::int64_t ld_from, std::int64_t offset, std::int64_t width,
                        std::vector<float>& to, std::int64_t ld_to) {
    for (std::int64_t r = 0; r < n_rows; ++r)
      std::copy_n(from.begin() + r * ld_from + offset, width, to.begin() + r * ld_to);
  };
  copy(qkv, fused.ld_q, 0, q_dim, q, apart.ld_q);
  copy(qkv, fused.ld_q, q_dim, kv_dim, k, apart.ld_kv);
  copy(qkv, fused.ld_q, q_dim + kv_dim, kv_dim, v, apart.ld_kv);
  cpu().nn.attention(exec_, apart, q.data(), k.data(), v.data(), out.data());
  nn_.attention(exec_, apart, q.data(), k.data(), v.data(), out.data(), d_out.data(), dq.data(), dk.data(), dv.data());
  nn_.attention(exec_, fused, qkv.data(), qkv.data() + q_dim, qkv.data() + q_dim + kv_dim, out.data(), d_out.data(),
                d_qkv.data(), d_qkv.data() + q_dim, d_qkv.data() + q_dim + kv_dim);
  std::vector<float> expected(qkv.size());
  for (std::int64_t r = 0; r < n_rows; ++r) {
    std::copy_n(dq.begin() + r * apart.ld_q, q_dim, expected.begin() + r * fused.ld_q);
    std::copy_n(dk.begin() + r * apart.ld_kv, kv_dim, expected.begin() + r * fused.ld_q + q_dim);
    std::copy_n(dv.begin() + r * apart.ld_kv, kv_dim, expected.begin() + r * fused.ld_q + q_dim + kv_dim);
  }
  EXPECT_EQ(d_qkv, expected);
}

}  // namespace
}  // namespace voronoi::kernels
