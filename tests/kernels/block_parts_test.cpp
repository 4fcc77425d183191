// Operations of which only some architectures have use, and their derivatives: definitions in fp64 and differences.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "kernels/gradients.h"

namespace voronoi::kernels {
namespace {

class BlockParts : public NnGradient {
 protected:
  const NnKernels& forward_ = cpu().nn;
};

TEST_F(BlockParts, RopeTurnsAPartOfAHeadAndNeighbours) {
  for (const bool interleaved : {false, true})
    for (const std::int64_t n_turned : {2, 10, 34}) {
      const std::int64_t head_dim = n_turned + 4, n_rows = 6, n_tokens = 3, n_heads = 2, ld = n_heads * head_dim + 1;
      const RopeShape shape{n_rows, n_tokens, n_heads, head_dim, n_turned, interleaved};
      const std::vector<float> table = random_floats(n_tokens * n_turned, 1), x = random_floats(n_rows * ld, 2);
      std::vector<float> out = x;
      forward_.rope(exec_, shape, table.data(), out.data(), ld);
      for (std::int64_t r = 0; r < n_rows; ++r)
        for (std::int64_t c = 0; c < ld; ++c) {
          const std::int64_t h = c / head_dim, i = c % head_dim, half = n_turned / 2;
          const auto at = static_cast<std::size_t>(r * ld + c);
          if (h >= n_heads || i >= n_turned) {
            EXPECT_EQ(out[at], x[at]) << "not turned";
            continue;
          }
          const std::int64_t pair = interleaved ? i / 2 : i % half;
          const bool upper = interleaved ? i % 2 == 1 : i >= half;
          const std::size_t apart = interleaved ? 1 : static_cast<std::size_t>(half);
          const auto turn = static_cast<std::size_t>(r % n_tokens * n_turned + pair);
          const double cosine = static_cast<double>(table[turn]),
                       sine = static_cast<double>(table[turn + static_cast<std::size_t>(half)]);
          const double own = static_cast<double>(x[at]),
                       other = static_cast<double>(upper ? x[at - apart] : x[at + apart]);
          EXPECT_NEAR(out[at], own * cosine + (upper ? other : -other) * sine, 1e-5);
        }
      // Turned back: (R x) . y = x . (R^T y).
      const std::vector<float> y = random_floats(n_rows * ld, 3);
      std::vector<float> back = y;
      nn_.rope(exec_, shape, table.data(), back.data(), ld);
      EXPECT_NEAR(inner(y, widened(out)), inner(back, widened(x)), 1e-4);
    }
}

TEST_F(BlockParts, LayerNorm) {
  const auto definition = [](const Doubles& x, const Doubles& weight, double eps) {
    const std::size_t dim = weight.size();
    Doubles out(x.size());
    for (std::size_t r = 0; r < x.size(); r += dim) {
      double mean = 0, square = 0;
      for (std::size_t i = 0; i < dim; ++i) mean += x[r + i] / static_cast<double>(dim);
      for (std::size_t i = 0; i < dim; ++i) square += std::pow(x[r + i] - mean, 2) / static_cast<double>(dim);
      for (std::size_t i = 0; i < dim; ++i) out[r + i] = weight[i] * (x[r + i] - mean) / std::sqrt(square + eps);
    }
    return out;
  };
  for (const std::int64_t dim : {2, 7, 16, 54}) {
    const std::int64_t n_rows = 130;  // more than a part of a sum
    const float eps = 0.01F;
    const std::vector<float> x = random_floats(n_rows * dim, 1), weight = random_floats(dim, 2),
                             d_out = random_floats(n_rows * dim, 3);
    std::vector<float> out(x.size());
    forward_.layer_norm(exec_, n_rows, dim, x.data(), dim, weight.data(), eps, out.data(), dim);
    expect_close(out, definition(widened(x), widened(weight), static_cast<double>(eps)), 1e-6, 1.0);
    std::vector<float> in_place = x;
    forward_.layer_norm(exec_, n_rows, dim, in_place.data(), dim, weight.data(), eps, in_place.data(), dim);
    EXPECT_EQ(in_place, out);

    const std::size_t few = static_cast<std::size_t>(3 * dim);
    const Doubles some(x.begin(), x.begin() + static_cast<std::ptrdiff_t>(few));
    const std::vector<float> d_some(d_out.begin(), d_out.begin() + static_cast<std::ptrdiff_t>(few));
    const Doubles dx = differences(some, [&](const Doubles& at) {
      return inner(d_some, definition(at, widened(weight), static_cast<double>(eps)));
    });
    std::vector<float> got(few), sum(static_cast<std::size_t>(dim), 5.0F), more(few, 2.0F);
    nn_.layer_norm(exec_, 3, dim, x.data(), dim, weight.data(), eps, d_out.data(), dim, false, got.data(), dim,
                   nullptr);
    expect_close(got, dx, 1e-5, 1.0);
    nn_.layer_norm(exec_, 3, dim, x.data(), dim, weight.data(), eps, d_out.data(), dim, true, more.data(), dim,
                   nullptr);
    for (std::size_t i = 0; i < few; ++i) EXPECT_NEAR(more[i], 2 + got[i], 1e-5);
    const Doubles d_weight = differences(widened(weight), [&](const Doubles& at) {
      return inner(d_out, definition(widened(x), at, static_cast<double>(eps)));
    });
    std::vector<float> all(x.size()), alone = sum;
    nn_.layer_norm(exec_, n_rows, dim, x.data(), dim, weight.data(), eps, d_out.data(), dim, false, all.data(), dim,
                   sum.data());
    for (std::size_t i = 0; i < sum.size(); ++i) EXPECT_NEAR(sum[i], 5 + d_weight[i], 1e-3);
    nn_.layer_norm(single_, n_rows, dim, x.data(), dim, weight.data(), eps, d_out.data(), dim, false, all.data(), dim,
                   alone.data());
    EXPECT_EQ(sum, alone) << "depends on the number of threads";
  }
}

TEST_F(BlockParts, ClampedGates) {
  const double limit = 1.25;
  const auto definition = [&](const Doubles& gate, const Doubles& up) {
    Doubles out(gate.size());
    for (std::size_t i = 0; i < gate.size(); ++i) {
      const double g = std::min(gate[i], limit), u = std::clamp(up[i], -limit, limit);
      out[i] = (u + 1) * g / (1 + std::exp(-1.702 * g));
    }
    return out;
  };
  std::vector<float> gate = random_floats(77, 4, 2.0F), up = random_floats(77, 5, 2.0F), d_out = random_floats(77, 6);
  gate[3] = -200;  // its sigmoid is nothing
  std::vector<float> out(gate.size()), d_gate(gate.size()), d_up(gate.size());
  forward_.clamped_swiglu(exec_, 77, 1.25F, gate.data(), up.data(), out.data());
  expect_close(out, definition(widened(gate), widened(up)), 1e-6, 1.0);
  nn_.clamped_swiglu(exec_, 77, 1.25F, gate.data(), up.data(), d_out.data(), d_gate.data(), d_up.data());
  const auto loss = [&](const Doubles& g, const Doubles& u) { return inner(d_out, definition(g, u)); };
  expect_close(d_gate, differences(widened(gate), [&](const Doubles& at) { return loss(at, widened(up)); }), 1e-5, 1.0);
  expect_close(d_up, differences(widened(up), [&](const Doubles& at) { return loss(widened(gate), at); }), 1e-5, 1.0);
  EXPECT_GT(std::count(d_gate.begin(), d_gate.end(), 0.0F), 5) << "no gate was clamped";
}

TEST_F(BlockParts, SigmoidRoutersChooseAmongGroupsByTheirBias) {
  // sigmoid: 0.5 at 0, 0.75 at log 3, 0.9 at log 9.
  const float log3 = std::log(3.0F), log9 = std::log(9.0F);
  const std::vector<float> logits{0, log3, log9, -log9, 0, log3};  // 0.5 0.75 | 0.9 0.1 | 0.5 0.75
  const std::vector<float> bias{0.3F, 0, 0, 0, 0, 0};              // 0.8 0.75 | 0.9 0.1 | 0.5 0.75
  std::vector<std::int32_t> expert(2);
  std::vector<float> weight(2);
  const auto route = [&](RouteShape shape, const float* with_bias) {
    shape.n_rows = 1;
    shape.n_experts = 6;
    shape.top_k = 2;
    shape.sigmoid = true;
    forward_.route(exec_, shape, logits.data(), with_bias, expert.data(), weight.data());
  };
  route({}, nullptr);
  EXPECT_EQ(expert, (std::vector<std::int32_t>{2, 1}));
  EXPECT_NEAR(weight[0], 0.9, 1e-6);
  EXPECT_NEAR(weight[1], 0.75, 1e-6);
  RouteShape shape{};
  shape.renormalise = true;
  shape.factor = 2;
  shape.n_groups = shape.top_groups = 1;
  route(shape, bias.data());
  EXPECT_EQ(expert, (std::vector<std::int32_t>{2, 0}));
  EXPECT_NEAR(weight[0], 2 * 0.9 / 1.4, 1e-6) << "the bias is in the choice alone";
  EXPECT_NEAR(weight[1], 2 * 0.5 / 1.4, 1e-6);
  // Groups add up to 1.55, 1 and 1.25: the one with the best expert goes.
  shape.n_groups = 3;
  shape.top_groups = 1;
  route(shape, bias.data());
  EXPECT_EQ(expert, (std::vector<std::int32_t>{0, 1}));
  shape.top_groups = 2;
  route(shape, bias.data());
  EXPECT_EQ(expert, (std::vector<std::int32_t>{0, 1}));
}

TEST_F(BlockParts, SigmoidRoutersDerivative) {
  for (const bool renormalise : {false, true}) {
    RouteShape shape{2, 6, 3, renormalise, true, 3, 2, 1.75F};
    const std::vector<float> logits = random_floats(12, 7), bias = random_floats(6, 8, 0.1F),
                             d_weight = random_floats(6, 9);
    std::vector<std::int32_t> expert(6);
    std::vector<float> weight(6), d_logits(12);
    forward_.route(exec_, shape, logits.data(), bias.data(), expert.data(), weight.data());
    nn_.route(exec_, shape, logits.data(), expert.data(), weight.data(), d_weight.data(), d_logits.data());
    const Doubles expected = differences(widened(logits), [&](const Doubles& at) {
      double loss = 0;
      for (std::size_t r = 0; r < 2; ++r) {
        Doubles share;
        double sum = 0;
        for (std::size_t j = 0; j < 3; ++j) {
          share.push_back(1 / (1 + std::exp(-at[r * 6 + static_cast<std::size_t>(expert[r * 3 + j])])));
          sum += share.back();
        }
        for (std::size_t j = 0; j < 3; ++j) {
          const double given = 1.75 * share[j] / (renormalise ? sum : 1);
          EXPECT_NEAR(weight[r * 3 + j], given, 0.01);
          loss += static_cast<double>(d_weight[r * 3 + j]) * given;
        }
      }
      return loss;
    });
    expect_close(d_logits, expected, 1e-5, 1.0);
  }
}

TEST_F(BlockParts, PartsOfRowsAreCopiedAndSummed) {
  const std::vector<float> x{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12};  // two rows of six
  std::vector<float> out(2 * 5, -1.0F);
  // The first value of each pair, from three heads to places two apart.
  forward_.copy_heads(exec_, {2, 3, 1, 6, 2, 5, 2}, x.data(), out.data());
  EXPECT_EQ(out, (std::vector<float>{1, -1, 3, -1, 5, 7, -1, 9, -1, 11}));
  // One part for both heads.
  std::vector<float> twice(2 * 4);
  forward_.copy_heads(exec_, {2, 2, 2, 6, 0, 4, 2}, x.data() + 1, twice.data());
  EXPECT_EQ(twice, (std::vector<float>{2, 3, 2, 3, 8, 9, 8, 9}));
  std::vector<float> sums(2 * 3, -1.0F);
  nn_.sum_heads(exec_, {2, 3, 2, 6, 2, 3, 0}, x.data(), sums.data());
  EXPECT_EQ(sums, (std::vector<float>{9, 12, -1, 27, 30, -1}));
}

/// One head: out, and where wanted the derivative by the sink, of sum(d_out * out).
Doubles with_sink(const AttentionShape& s, const Doubles& q, const Doubles& k, const Doubles& v, double sink) {
  Doubles out(static_cast<std::size_t>(s.n_tokens * s.head_dim));
  const auto dim = static_cast<std::size_t>(s.head_dim);
  for (std::size_t i = 0; i < static_cast<std::size_t>(s.n_tokens); ++i) {
    double sum = std::exp(sink);
    Doubles values(dim);
    for (std::size_t j = 0; j <= i; ++j) {
      if (s.window > 0 && i - j >= static_cast<std::size_t>(s.window)) continue;
      double score = 0;
      for (std::size_t c = 0; c < dim; ++c) score += static_cast<double>(s.scale) * q[i * dim + c] * k[j * dim + c];
      sum += std::exp(score);
      for (std::size_t c = 0; c < dim; ++c) values[c] += std::exp(score) * v[j * dim + c];
    }
    for (std::size_t c = 0; c < dim; ++c) out[i * dim + c] = values[c] / sum;
  }
  return out;
}

TEST_F(BlockParts, SinksTakeAShareOfAttention) {
  for (const float sink : {-3.0F, 0.5F, 9.0F})
    for (const std::int64_t window : {0, 5}) {
      AttentionShape s = shape_of({1, 23, 1, 1, 6, window}, false);
      s.ld_q = s.ld_kv = s.ld_out = 6;
      s.sinks = &sink;
      const std::vector<float> q = random_floats(23 * 6, 10), k = random_floats(23 * 6, 11),
                               v = random_floats(23 * 6, 12), d_out = random_floats(23 * 6, 13);
      std::vector<float> out(q.size()), last(6), dq(q.size()), dk(q.size()), dv(q.size()), d_sinks(23);
      forward_.attention(exec_, s, q.data(), k.data(), v.data(), out.data());
      expect_close(out, with_sink(s, widened(q), widened(k), widened(v), static_cast<double>(sink)), 3e-6, 1.0);
      AttentionShape one = s;
      one.n_tokens = 1;
      forward_.cached_attention(exec_, one, 22, q.data() + 22 * 6, k.data(), v.data(), last.data());
      for (std::size_t c = 0; c < 6; ++c) EXPECT_NEAR(last[c], out[22 * 6 + c], 1e-6);
      nn_.attention(exec_, s, q.data(), k.data(), v.data(), out.data(), d_out.data(), dq.data(), dk.data(), dv.data(),
                    d_sinks.data());
      const auto loss = [&](const Doubles& a, const Doubles& b, const Doubles& c, double at) {
        return inner(d_out, with_sink(s, a, b, c, at));
      };
      const Doubles wide_q = widened(q), wide_k = widened(k), wide_v = widened(v);
      const double at = static_cast<double>(sink);
      expect_close(dq, differences(wide_q, [&](const Doubles& x) { return loss(x, wide_k, wide_v, at); }), 1e-5, 1.0);
      expect_close(dk, differences(wide_k, [&](const Doubles& x) { return loss(wide_q, x, wide_v, at); }), 1e-5, 1.0);
      expect_close(dv, differences(wide_v, [&](const Doubles& x) { return loss(wide_q, wide_k, x, at); }), 1e-5, 1.0);
      double sum = 0;
      for (const float value : d_sinks) sum += static_cast<double>(value);
      EXPECT_NEAR(sum, differences({at}, [&](const Doubles& x) { return loss(wide_q, wide_k, wide_v, x[0]); })[0],
                  1e-5);
    }
}

}  // namespace
}  // namespace voronoi::kernels
