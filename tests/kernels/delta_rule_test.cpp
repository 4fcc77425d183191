// The gated delta rule and what stands around it: values by hand, definitions in fp64 and differences of them.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "kernels/gradients.h"

namespace voronoi::kernels {
namespace {

class DeltaRule : public NnGradient {
 protected:
  const DeltaRuleKernels& rule_ = cpu().delta_rule;
};

/// [sequences, tokens, channels], with zeros before.
Doubles conv_by_definition(const ConvShape& shape, const Doubles& x, const Doubles& weight) {
  Doubles out(x.size());
  for (std::int64_t s = 0; s < shape.n_sequences; ++s)
    for (std::int64_t t = 0; t < shape.n_tokens; ++t)
      for (std::int64_t c = 0; c < shape.channels; ++c) {
        double sum = 0;
        for (std::int64_t j = 0; j < shape.width; ++j) {
          const std::int64_t from = t - shape.width + 1 + j;
          if (from >= 0)
            sum += weight[static_cast<std::size_t>(c * shape.width + j)] *
                   x[static_cast<std::size_t>((s * shape.n_tokens + from) * shape.channels + c)];
        }
        out[static_cast<std::size_t>((s * shape.n_tokens + t) * shape.channels + c)] = sum / (1 + std::exp(-sum));
      }
  return out;
}

TEST_F(DeltaRule, ConvolutionByHand) {
  // Taps 2 (the token before) and 3 (its own): 3, 2 - 3, -2 + 6.
  const std::vector<float> x{1, -1, 2}, weight{2, 3}, past{10};
  std::vector<float> out(3);
  rule_.conv(exec_, {1, 3, 1, 2}, x.data(), nullptr, weight.data(), out.data());
  const auto silu = [](double value) { return value / (1 + std::exp(-value)); };
  EXPECT_NEAR(out[0], silu(3), 1e-6);
  EXPECT_NEAR(out[1], silu(-1), 1e-6);
  EXPECT_NEAR(out[2], silu(4), 1e-6);
  rule_.conv(exec_, {1, 3, 1, 2}, x.data(), past.data(), weight.data(), out.data());
  EXPECT_NEAR(out[0], silu(23), 1e-5);
}

TEST_F(DeltaRule, ConvolutionAndItsDerivative) {
  for (const ConvShape& shape :
       {ConvShape{2, 5, 19, 4}, ConvShape{3, 2, 33, 4}, ConvShape{2, 70, 3, 2}, ConvShape{1, 4, 5, 1}}) {
    const std::int64_t n = shape.n_sequences * shape.n_tokens * shape.channels;
    const std::vector<float> x = random_floats(n, 1), weight = random_floats(shape.channels * shape.width, 2),
                             d_out = random_floats(n, 3);
    std::vector<float> out(x.size());
    rule_.conv(exec_, shape, x.data(), nullptr, weight.data(), out.data());
    expect_close(out, conv_by_definition(shape, widened(x), widened(weight)), 1e-6, 1.0);
    // With a past it is the rest of a longer sequence, to the bit.
    const std::int64_t first = shape.n_tokens / 2, before = shape.width - 1;
    std::vector<float> past, rest, whole;
    for (std::int64_t s = 0; s < shape.n_sequences; ++s) {
      const auto row = [&](std::int64_t t) { return x.begin() + (s * shape.n_tokens + t) * shape.channels; };
      for (std::int64_t t = first - before; t < first; ++t)
        for (std::int64_t c = 0; c < shape.channels; ++c) past.push_back(t < 0 ? 0.0F : row(t)[c]);
      rest.insert(rest.end(), row(first), row(shape.n_tokens));
      const auto from = out.begin() + (s * shape.n_tokens + first) * shape.channels;
      whole.insert(whole.end(), from, from + (shape.n_tokens - first) * shape.channels);
    }
    std::vector<float> continued(rest.size());
    rule_.conv(single_, {shape.n_sequences, shape.n_tokens - first, shape.channels, shape.width}, rest.data(),
               past.data(), weight.data(), continued.data());
    EXPECT_EQ(continued, whole);

    std::vector<float> slopes = d_out, dx(x.size()), d_weight(weight.size(), 2.0F), alone = d_weight;
    rule_.conv_gradient(exec_, shape, x.data(), weight.data(), slopes.data(), dx.data(), d_weight.data());
    const auto loss = [&](const Doubles& values, const Doubles& weights) {
      return inner(d_out, conv_by_definition(shape, values, weights));
    };
    expect_close(dx, differences(widened(x), [&](const Doubles& at) { return loss(at, widened(weight)); }), 1e-5, 1.0);
    const Doubles expected = differences(widened(weight), [&](const Doubles& at) { return loss(widened(x), at); });
    for (std::size_t i = 0; i < expected.size(); ++i) EXPECT_NEAR(d_weight[i], 2 + expected[i], 1e-4);
    slopes = d_out;
    rule_.conv_gradient(single_, shape, x.data(), weight.data(), slopes.data(), dx.data(), alone.data());
    EXPECT_EQ(d_weight, alone) << "depends on the number of threads";
    slopes = d_out;
    rule_.conv_gradient(exec_, shape, x.data(), weight.data(), slopes.data(), dx.data(), nullptr);
  }
}

/// The gates, as x lays them out.
Doubles gates_by_definition(std::int64_t n_rows, std::int64_t n_groups, std::int64_t n_heads, const Doubles& x,
                            const Doubles& log_decay, const Doubles& bias) {
  Doubles out(x.size());
  const std::int64_t in_group = n_heads / n_groups;
  for (std::int64_t r = 0; r < n_rows; ++r)
    for (std::int64_t g = 0; g < n_groups; ++g)
      for (std::int64_t i = 0; i < in_group; ++i) {
        const auto head = static_cast<std::size_t>(g * in_group + i), row = static_cast<std::size_t>(r * 2 * n_heads);
        const std::size_t at = row + static_cast<std::size_t>(g * 2 * in_group + i);
        const double b = x[at], a = x[at + static_cast<std::size_t>(in_group)];
        out[row + head] = std::exp(-std::exp(log_decay[head]) * std::log1p(std::exp(a + bias[head])));
        out[row + static_cast<std::size_t>(n_heads) + head] = 1 / (1 + std::exp(-b));
      }
  return out;
}

TEST_F(DeltaRule, GatesAndTheirDerivative) {
  const std::int64_t n_rows = 5, n_groups = 3, n_heads = 6;
  const std::vector<float> x = random_floats(n_rows * 2 * n_heads, 4, 2.0F), log_decay = random_floats(n_heads, 5),
                           bias = random_floats(n_heads, 6), d_gates = random_floats(n_rows * 2 * n_heads, 7);
  std::vector<float> gates(x.size()), dx(x.size()), terms(x.size());
  rule_.gates(exec_, n_rows, n_groups, n_heads, x.data(), log_decay.data(), bias.data(), gates.data());
  const auto definition = [&](const Doubles& at, const Doubles& decay, const Doubles& more) {
    return gates_by_definition(n_rows, n_groups, n_heads, at, decay, more);
  };
  const Doubles wide = widened(x), decay = widened(log_decay), more = widened(bias);
  expect_close(gates, definition(wide, decay, more), 1e-6, 1.0);
  rule_.gates_gradient(exec_, n_rows, n_groups, n_heads, x.data(), log_decay.data(), bias.data(), gates.data(),
                       d_gates.data(), dx.data(), terms.data());
  expect_close(dx, differences(wide, [&](const Doubles& at) { return inner(d_gates, definition(at, decay, more)); }),
               1e-5, 1.0);
  std::vector<float> sums(static_cast<std::size_t>(2 * n_heads));
  nn_.column_sums(exec_, n_rows, 2 * n_heads, terms.data(), 2 * n_heads, sums.data());
  Doubles expected = differences(decay, [&](const Doubles& at) { return inner(d_gates, definition(wide, at, more)); });
  const Doubles by_bias =
      differences(more, [&](const Doubles& at) { return inner(d_gates, definition(wide, decay, at)); });
  expected.insert(expected.end(), by_bias.begin(), by_bias.end());
  expect_close(sums, expected, 1e-5, 1.0);
  // Far out: all is kept, or nothing.
  const std::vector<float> far{200, -200, 200, 200}, two{0, 0};
  std::vector<float> ends(4);
  rule_.gates(exec_, 1, 2, 2, far.data(), two.data(), two.data(), ends.data());
  EXPECT_EQ(ends, (std::vector<float>{1, 0, 1, 1}));
}

TEST_F(DeltaRule, RuleByHand) {
  // One value a key: written whole, then half of another stays and the rest of what it lacks is written in part.
  const std::vector<float> q{1, 2, 1, 0}, k{1, 0, 0.5F, 1}, v{3, 5}, gates{0.25F, 1, 0.5F, 0.5F};
  std::vector<float> out(2), state(2);
  const DeltaShape shape{1, 2, 2, 1, 1, 2, 1, 1, 2.0F};
  rule_.rule(exec_, shape, q.data(), k.data(), v.data(), gates.data(), nullptr, out.data(), state.data());
  // S = (3, 0); then (1.5, 0), of which the key reads 0.75; half of 4.25 is written: (2.5625, 2.125).
  EXPECT_EQ(out, (std::vector<float>{6, 5.125F}));
  EXPECT_EQ(state, (std::vector<float>{2.5625F, 2.125F}));
}

struct Inputs {
  Doubles q, k, v, gates;
};

Doubles rule_by_definition(const DeltaShape& shape, const Inputs& in) {
  Doubles out;
  const auto at = [](const Doubles& values, std::int64_t i) { return values[static_cast<std::size_t>(i)]; };
  out.resize(static_cast<std::size_t>(shape.n_sequences * shape.n_tokens * shape.n_heads * shape.value_dim));
  for (std::int64_t s = 0; s < shape.n_sequences; ++s)
    for (std::int64_t h = 0; h < shape.n_heads; ++h) {
      const std::int64_t key_head = h * shape.n_key_heads / shape.n_heads;
      Doubles state(static_cast<std::size_t>(shape.key_dim * shape.value_dim));
      for (std::int64_t t = 0; t < shape.n_tokens; ++t) {
        const std::int64_t row = s * shape.n_tokens + t, keys = (row * shape.n_key_heads + key_head) * shape.key_dim;
        for (double& value : state) value *= at(in.gates, row * 2 * shape.n_heads + h);
        for (std::int64_t j = 0; j < shape.value_dim; ++j) {
          double predicted = 0, read = 0;
          for (std::int64_t i = 0; i < shape.key_dim; ++i)
            predicted += at(in.k, keys + i) * at(state, i * shape.value_dim + j);
          const double change = at(in.gates, (row * 2 + 1) * shape.n_heads + h) *
                                (at(in.v, row * shape.ld_v + h * shape.value_dim + j) - predicted);
          for (std::int64_t i = 0; i < shape.key_dim; ++i) {
            double& entry = state[static_cast<std::size_t>(i * shape.value_dim + j)];
            entry += at(in.k, keys + i) * change;
            read += at(in.q, keys + i) * entry;
          }
          out[static_cast<std::size_t>((row * shape.n_heads + h) * shape.value_dim + j)] =
              static_cast<double>(shape.scale) * read;
        }
      }
    }
  return out;
}

struct RuleCase {
  DeltaShape shape;
  std::vector<float> q, k, v, gates, d_out;

  explicit RuleCase(const DeltaShape& of) : shape(of) {
    const std::int64_t rows = shape.n_sequences * shape.n_tokens, keys = rows * shape.n_key_heads * shape.key_dim;
    const auto deviation = static_cast<float>(1 / std::sqrt(static_cast<double>(shape.key_dim)));
    q = random_floats(keys, 8, deviation);
    k = random_floats(keys, 9, deviation);
    v = random_floats(rows * shape.ld_v, 10);
    gates = random_floats(rows * 2 * shape.n_heads, 11);
    for (float& gate : gates) gate = 1 / (1 + std::exp(-gate - 0.5F));
    d_out = random_floats(rows * shape.n_heads * shape.value_dim, 12);
  }
  Inputs inputs() const { return {widened(q), widened(k), widened(v), widened(gates)}; }
};

TEST_F(DeltaRule, RuleIsItsDefinitionAndGoesOn) {
  for (const DeltaShape& shape :
       {DeltaShape{2, 9, 9, 2, 4, 5, 7, 30, 0.5F}, DeltaShape{1, 40, 40, 1, 1, 18, 70, 70, 0.3F}}) {
    const RuleCase c(shape);
    const std::int64_t n_state = shape.n_sequences * shape.n_heads * shape.key_dim * shape.value_dim;
    std::vector<float> out(c.d_out.size()), state(static_cast<std::size_t>(n_state));
    rule_.rule(exec_, shape, c.q.data(), c.k.data(), c.v.data(), c.gates.data(), nullptr, out.data(), state.data());
    expect_close(out, rule_by_definition(shape, c.inputs()), 2e-6, 1.0);
    // In two parts, on another number of threads, in place: the same bits.
    std::vector<float> parts(out.size()), going(state.size());
    DeltaShape part = shape;
    const std::int64_t first = shape.n_tokens / 3;
    part.n_tokens = first;
    rule_.rule(single_, part, c.q.data(), c.k.data(), c.v.data(), c.gates.data(), nullptr, parts.data(), going.data());
    part.n_tokens = shape.n_tokens - first;
    const std::int64_t keys = first * shape.n_key_heads * shape.key_dim;
    rule_.rule(single_, part, c.q.data() + keys, c.k.data() + keys, c.v.data() + first * shape.ld_v,
               c.gates.data() + first * 2 * shape.n_heads, going.data(),
               parts.data() + first * shape.n_heads * shape.value_dim, going.data());
    EXPECT_EQ(parts, out);
    EXPECT_EQ(going, state);
  }
}

TEST_F(DeltaRule, RulesDerivative) {
  // Fewer tokens than a chunk, one more than two chunks.
  for (const DeltaShape& shape : {DeltaShape{2, 4, 4, 2, 4, 3, 5, 22, 0.7F},
                                  DeltaShape{1, 2 * kDeltaChunk + 1, 2 * kDeltaChunk + 1, 1, 2, 2, 3, 6, 0.7F}}) {
    const RuleCase c(shape);
    const std::int64_t rows = shape.n_sequences * shape.n_tokens, keys = rows * shape.n_heads * shape.key_dim;
    const auto run = [&](const Exec& exec) {
      std::vector<std::vector<float>> all{std::vector<float>(static_cast<std::size_t>(keys)),
                                          std::vector<float>(static_cast<std::size_t>(keys)),
                                          std::vector<float>(c.v.size()), std::vector<float>(c.gates.size())};
      rule_.rule_gradient(exec, shape, c.q.data(), c.k.data(), c.v.data(), c.gates.data(), c.d_out.data(),
                          all[0].data(), all[1].data(), all[2].data(), all[3].data());
      return all;
    };
    const std::vector<std::vector<float>> got = run(exec_);
    EXPECT_EQ(got, run(single_)) << "depends on the number of threads";
    const auto by = [&](Doubles Inputs::*part) {
      Inputs in = c.inputs();
      const Doubles start = in.*part;
      return differences(start, [&](const Doubles& at) {
        in.*part = at;
        return inner(c.d_out, rule_by_definition(shape, in));
      });
    };
    // Those of heads of keys are sums over their heads of values.
    const std::int64_t shared = shape.n_heads / shape.n_key_heads, dim = shape.key_dim;
    for (const auto& [part, index] : {std::pair{&Inputs::q, 0}, std::pair{&Inputs::k, 1}}) {
      std::vector<float> sums(c.q.size());
      nn_.sum_heads(exec_, {rows * shape.n_key_heads, shared, dim, shared * dim, dim, dim, 0},
                    got[static_cast<std::size_t>(index)].data(), sums.data());
      expect_close(sums, by(part), 2e-5, 1.0);
    }
    expect_close(got[2], by(&Inputs::v), 2e-5, 1.0);
    expect_close(got[3], by(&Inputs::gates), 2e-5, 1.0);
  }
}

TEST_F(DeltaRule, SigmoidGates) {
  const std::vector<float> gate = random_floats(77, 13, 2.0F), x = random_floats(77, 14), d_out = random_floats(77, 15);
  const auto definition = [](const Doubles& g, const Doubles& values) {
    Doubles out(g.size());
    for (std::size_t i = 0; i < g.size(); ++i) out[i] = values[i] / (1 + std::exp(-g[i]));
    return out;
  };
  std::vector<float> out(77), d_gate(77), dx = d_out;
  rule_.sigmoid_gate(exec_, 77, gate.data(), x.data(), out.data());
  expect_close(out, definition(widened(gate), widened(x)), 1e-6, 1.0);
  std::vector<float> in_place = x;
  rule_.sigmoid_gate(exec_, 77, gate.data(), in_place.data(), in_place.data());
  EXPECT_EQ(in_place, out);
  rule_.sigmoid_gate_gradient(exec_, 77, gate.data(), x.data(), dx.data(), d_gate.data(), dx.data());
  const auto loss = [&](const Doubles& g, const Doubles& values) { return inner(d_out, definition(g, values)); };
  expect_close(d_gate, differences(widened(gate), [&](const Doubles& at) { return loss(at, widened(x)); }), 1e-5, 1.0);
  expect_close(dx, differences(widened(x), [&](const Doubles& at) { return loss(widened(gate), at); }), 1e-5, 1.0);
}

}  // namespace
}  // namespace voronoi::kernels
