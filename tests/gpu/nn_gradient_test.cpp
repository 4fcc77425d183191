// Derivatives of the operations of a decoder block: CUDA twins against the CPU's.
#include <algorithm>
#include <cmath>
#include <limits>

#include "gpu/gpu_fixture.h"
#include "support/attention_case.h"

namespace voronoi {
namespace {

using backend::Array;
using test::AttentionCase;
using test::normal_values;

std::size_t at(std::int64_t i) { return static_cast<std::size_t>(i); }

class GpuNnGradient : public test::GpuTest {
 protected:
  const kernels::NnGradientKernels& twin() { return gpu().nn_gradient(); }
  const kernels::NnGradientKernels& oracle() { return cpu().nn_gradient(); }

  /// Within `bound` of the largest.
  static void expect_near(const std::vector<float>& a, const std::vector<float>& b, float bound) {
    ASSERT_EQ(a.size(), b.size());
    float largest = 1e-6F;
    for (const float value : b) largest = std::max(largest, std::fabs(value));
    for (std::size_t i = 0; i < a.size(); ++i) ASSERT_NEAR(a[i], b[i], bound * largest) << i;
  }
};

TEST_F(GpuNnGradient, ElementwiseOperations) {
  for (const std::int64_t n : {1, 1023, 1025, 5003}) {
    std::vector<float> gate = normal_values(n, 1);
    for (float& value : gate) value *= 4;
    gate[0] = -200;
    gate[at(n / 2)] = 150;
    const std::vector<float> up = normal_values(n, 2), d_out = normal_values(n, 3);
    const Array<float> gpu_gate = on_gpu(gate), gpu_up = on_gpu(up);
    for (const auto entry : {&kernels::NnGradientKernels::swiglu, &kernels::NnGradientKernels::geglu}) {
      Array<float> d_gate = on_gpu(d_out), d_up(gpu(), n);  // in place
      std::vector<float> expected_gate(at(n)), expected_up(at(n));
      (twin().*entry)(gpu().exec(), n, gpu_gate.data(), gpu_up.data(), d_gate.data(), d_gate.data(), d_up.data());
      (oracle().*entry)(cpu().exec(), n, gate.data(), up.data(), d_out.data(), expected_gate.data(),
                        expected_up.data());
      expect_near(d_gate.to_host(), expected_gate, 2e-6F);
      expect_near(d_up.to_host(), expected_up, 2e-6F);
    }
    Array<float> capped = on_gpu(d_out), gated = on_gpu(d_out);
    std::vector<float> expected_capped = d_out, expected_gated = d_out;
    twin().soft_cap(gpu().exec(), n, 5.0F, gpu_up.data(), capped.data());
    oracle().soft_cap(cpu().exec(), n, 5.0F, up.data(), expected_capped.data());
    expect_near(capped.to_host(), expected_capped, 1e-6F);
    twin().sigmoid(gpu().exec(), n, gpu_up.data(), gated.data());
    oracle().sigmoid(cpu().exec(), n, up.data(), expected_gated.data());
    expect_near(gated.to_host(), expected_gated, 1e-6F);
  }
}

TEST_F(GpuNnGradient, Rope) {
  for (const std::int64_t head_dim : {2, 18, 64}) {
    const std::int64_t n_tokens = 5, n_rows = 10, n_heads = 3, ld = n_heads * head_dim + 1;
    const std::vector<float> x = normal_values(n_rows * ld, 6), turns = normal_values(n_tokens * head_dim, 7);
    const Array<float> gpu_turns = on_gpu(turns);
    Array<float> out = on_gpu(x);
    std::vector<float> expected = x;
    twin().rope(gpu().exec(), {n_rows, n_tokens, n_heads, head_dim, head_dim}, gpu_turns.data(), out.data(), ld);
    oracle().rope(cpu().exec(), {n_rows, n_tokens, n_heads, head_dim, head_dim}, turns.data(), expected.data(), ld);
    expect_near(out.to_host(), expected, 1e-6F);
  }
}

TEST_F(GpuNnGradient, RmsNormAndColumnSums) {
  for (const std::int64_t dim : {1, 10, 576, 1025}) {
    const std::int64_t n_rows = dim > 1024 ? 3 : 150, ld = dim + 3;
    const std::vector<float> x = normal_values(n_rows * ld, 4), weight = normal_values(dim, 5),
                             d_out = normal_values(n_rows * ld, 6), before = normal_values(n_rows * ld, 7),
                             sum = normal_values(dim, 8);
    const Array<float> gpu_x = on_gpu(x), gpu_weight = on_gpu(weight);
    for (const bool accumulate : {false, true})
      for (const bool with_weight : {false, true}) {
        // Where it does not add, it takes d_out's place.
        const Array<float> gpu_d_out = on_gpu(d_out);
        Array<float> dx = on_gpu(accumulate ? before : d_out), d_weight = on_gpu(sum);
        std::vector<float> expected = accumulate ? before : d_out, expected_weight = sum;
        twin().rms_norm(gpu().exec(), n_rows, dim, gpu_x.data(), ld, gpu_weight.data(), 1e-5F,
                        accumulate ? gpu_d_out.data() : dx.data(), ld, accumulate, dx.data(), ld,
                        with_weight ? d_weight.data() : nullptr);
        oracle().rms_norm(cpu().exec(), n_rows, dim, x.data(), ld, weight.data(), 1e-5F,
                          accumulate ? d_out.data() : expected.data(), ld, accumulate, expected.data(), ld,
                          with_weight ? expected_weight.data() : nullptr);
        expect_near(dx.to_host(), expected, 1e-5F);
        expect_near(d_weight.to_host(), expected_weight, 1e-5F);
      }
    Array<float> total = on_gpu(sum);
    std::vector<float> expected = sum;
    twin().column_sums(gpu().exec(), n_rows, dim, gpu_x.data(), ld, total.data());
    oracle().column_sums(cpu().exec(), n_rows, dim, x.data(), ld, expected.data());
    expect_near(total.to_host(), expected, 1e-5F);
    Array<float> squares(gpu(), n_rows);
    std::vector<float> expected_squares(at(n_rows));
    twin().square_sums(gpu().exec(), n_rows, dim, gpu_x.data(), ld, squares.data());
    oracle().square_sums(cpu().exec(), n_rows, dim, x.data(), ld, expected_squares.data());
    expect_near(squares.to_host(), expected_squares, 1e-5F * static_cast<float>(dim));
  }
}

TEST_F(GpuNnGradient, Routers) {
  for (const std::int64_t n_experts : {1, 8, 60})
    for (const std::int64_t top_k : {std::int64_t{1}, n_experts})
      for (const bool renormalise : {false, true}) {
        const std::int64_t n_rows = 11;
        const std::vector<float> logits = normal_values(n_rows * n_experts, 11),
                                 d_weight = normal_values(n_rows * top_k, 12);
        std::vector<std::int32_t> expert(at(n_rows * top_k));
        std::vector<float> weight(at(n_rows * top_k)), expected(logits.size());
        cpu().nn().route(cpu().exec(), {n_rows, n_experts, top_k, renormalise}, logits.data(), nullptr, expert.data(),
                         weight.data());
        const Array<float> gpu_logits = on_gpu(logits), gpu_weight = on_gpu(weight), gpu_d_weight = on_gpu(d_weight);
        const Array<std::int32_t> gpu_expert = on_gpu(expert);
        Array<float> out(gpu(), n_rows * n_experts);
        twin().route(gpu().exec(), {n_rows, n_experts, top_k, renormalise}, gpu_logits.data(), gpu_expert.data(),
                     gpu_weight.data(), gpu_d_weight.data(), out.data());
        oracle().route(cpu().exec(), {n_rows, n_experts, top_k, renormalise}, logits.data(), expert.data(),
                       weight.data(), d_weight.data(), expected.data());
        expect_near(out.to_host(), expected, 2e-6F);
      }
}

TEST_F(GpuNnGradient, RowsOfExpertsAndOfTheEmbedding) {
  const std::int64_t dim = 301;
  const std::vector<float> x = normal_values(70 * dim, 8), weight = normal_values(3, 9),
                           d_out = normal_values(6 * dim, 1), before = normal_values(9 * dim, 2);
  const std::vector<std::int32_t> row{4, 0, 5};
  const Array<float> gpu_x = on_gpu(x), gpu_weight = on_gpu(weight), gpu_d_out = on_gpu(d_out);
  const Array<std::int32_t> gpu_row = on_gpu(row);
  for (const bool given : {true, false}) {
    Array<float> dx(gpu(), 3 * dim), d_weight(gpu(), 3);
    std::vector<float> expected(at(3 * dim)), expected_weight(3);
    twin().weighted_rows(gpu().exec(), 3, dim, gpu_x.data(), given ? gpu_row.data() : nullptr, gpu_weight.data(),
                         gpu_d_out.data(), dx.data(), d_weight.data());
    oracle().weighted_rows(cpu().exec(), 3, dim, x.data(), given ? row.data() : nullptr, weight.data(), d_out.data(),
                           expected.data(), expected_weight.data());
    EXPECT_EQ(dx.to_host(), expected);
    expect_near(d_weight.to_host(), expected_weight, 2e-6F);
  }
  std::vector<std::int32_t> ids(70, 3);  // many times the same, over several steps of a warp
  for (std::size_t i = 0; i < ids.size(); i += 2) ids[i] = static_cast<std::int32_t>(i % 9);
  const Array<std::int32_t> gpu_ids = on_gpu(ids);
  Array<float> sum = on_gpu(before);
  std::vector<float> expected = before;
  twin().scatter_rows(gpu().exec(), gpu_ids.data(), 70, dim, gpu_x.data(), sum.data());
  oracle().scatter_rows(cpu().exec(), ids.data(), 70, dim, x.data(), expected.data());
  EXPECT_EQ(sum.to_host(), expected);
}

TEST_F(GpuNnGradient, Losses) {
  for (const std::int64_t vocab : {1, 33, 513, 2003}) {
    const std::int64_t n_rows = 3, ld = vocab + 2;
    std::vector<float> logits = normal_values(n_rows * ld, 10), teacher = normal_values(n_rows * ld, 11);
    for (float& value : logits) value *= 5;
    for (float& value : teacher) value *= 5;
    logits[0] = 3000;
    const std::vector<std::int32_t> target{0, static_cast<std::int32_t>(vocab - 1),
                                           static_cast<std::int32_t>(vocab / 2)};
    const Array<std::int32_t> gpu_target = on_gpu(target);
    const Array<float> gpu_teacher = on_gpu(teacher);
    Array<float> entropy = on_gpu(logits), divergent = on_gpu(logits);
    Array<double> nll(gpu(), n_rows), divergence(gpu(), n_rows);
    std::vector<float> expected_entropy = logits, expected_divergent = logits;
    std::vector<double> expected_nll(at(n_rows)), expected_divergence(at(n_rows));
    twin().cross_entropy(gpu().exec(), n_rows, vocab, 0.25F, gpu_target.data(), entropy.data(), ld, nll.data());
    oracle().cross_entropy(cpu().exec(), n_rows, vocab, 0.25F, target.data(), expected_entropy.data(), ld,
                           expected_nll.data());
    twin().divergence(gpu().exec(), n_rows, vocab, 0.25F, gpu_teacher.data(), divergent.data(), ld, divergence.data());
    oracle().divergence(cpu().exec(), n_rows, vocab, 0.25F, teacher.data(), expected_divergent.data(), ld,
                        expected_divergence.data());
    const std::vector<float> slopes = entropy.to_host(), other_slopes = divergent.to_host();
    for (std::int64_t r = 0; r < n_rows; ++r) {
      EXPECT_NEAR(nll.to_host()[at(r)], expected_nll[at(r)], 1e-11 * (1 + expected_nll[at(r)]));
      EXPECT_NEAR(divergence.to_host()[at(r)], expected_divergence[at(r)],
                  1e-11 * (1 + std::fabs(expected_divergence[at(r)])));
      for (std::int64_t i = r * ld; i < (r + 1) * ld; ++i) {  // what lies between rows stays
        ASSERT_NEAR(slopes[at(i)], expected_entropy[at(i)], 1e-6) << r << ", " << i;
        ASSERT_NEAR(other_slopes[at(i)], expected_divergent[at(i)], 1e-6) << r << ", " << i;
      }
    }
  }
}

TEST_F(GpuNnGradient, Attention) {
  std::vector<AttentionCase> cases{
      {1, 1, 1, 1, 8, 0, 0, 0},     {3, 2, 2, 1, 10, 0, 0, 0},     {1, 33, 3, 1, 18, 0, 0, 0},
      {2, 65, 4, 2, 64, 0, 0, 0},   {1, 50, 7, 1, 80, 0, 0, 1},    {1, 40, 2, 1, 256, 0, 0, 0},
      {1, 35, 2, 1, 130, 0, 0, 3},  {1, 130, 3, 1, 16, 1, 0, 0},   {1, 130, 3, 1, 16, 7, 0, 4},
      {1, 100, 2, 2, 32, 64, 0, 0}, {1, 60, 2, 1, 64, 1000, 0, 0}, {1, 45, 4, 2, 32, 20, 3, 0}};
  if (!is_emulated()) cases.push_back({2, 1500, 28, 4, 128, 0, 0, 0});
  for (const AttentionCase& c : cases) {
    const kernels::AttentionShape shape = shape_of(c);
    const std::int64_t n_rows = c.n_sequences * c.n_tokens;
    const std::vector<float> q = normal_values(n_rows * shape.ld_q, 1), k = normal_values(n_rows * shape.ld_kv, 2),
                             v = normal_values(n_rows * shape.ld_kv, 3),
                             d_out = normal_values(n_rows * shape.ld_out, 4);
    std::vector<float> out(d_out.size());
    cpu().nn().attention(cpu().exec(), shape, q.data(), k.data(), v.data(), out.data());
    std::vector<float> dq(q.size(), -7.0F), dk(k.size(), -7.0F), dv(v.size(), -7.0F);
    const Array<float> gpu_q = on_gpu(q), gpu_k = on_gpu(k), gpu_v = on_gpu(v), gpu_out = on_gpu(out),
                       gpu_d_out = on_gpu(d_out);
    Array<float> gpu_dq = on_gpu(dq), gpu_dk = on_gpu(dk), gpu_dv = on_gpu(dv);
    twin().attention(gpu().exec(), shape, gpu_q.data(), gpu_k.data(), gpu_v.data(), gpu_out.data(), gpu_d_out.data(),
                     gpu_dq.data(), gpu_dk.data(), gpu_dv.data(), nullptr);
    oracle().attention(cpu().exec(), shape, q.data(), k.data(), v.data(), out.data(), d_out.data(), dq.data(),
                       dk.data(), dv.data(), nullptr);
    SCOPED_TRACE(::testing::PrintToString(c));
    expect_near(gpu_dq.to_host(), dq, 1e-5F);
    expect_near(gpu_dk.to_host(), dk, 1e-5F);
    expect_near(gpu_dv.to_host(), dv, 1e-5F);
    if (HasFatalFailure()) return;
  }
}

TEST_F(GpuNnGradient, WhatIsNotFiniteIsNotHidden) {
  const kernels::AttentionShape shape = shape_of(AttentionCase{1, 3, 1, 1, 8, 0, 0, 0});
  std::vector<float> q(24, 1.0F);
  q[8] = std::numeric_limits<float>::quiet_NaN();  // token 1
  const std::vector<float> ones(24, 1.0F);
  const Array<float> gpu_q = on_gpu(q), other = on_gpu(ones);
  Array<float> dq(gpu(), 24), dk(gpu(), 24), dv(gpu(), 24);
  twin().attention(gpu().exec(), shape, gpu_q.data(), other.data(), other.data(), other.data(), other.data(), dq.data(),
                   dk.data(), dv.data(), nullptr);
  const std::vector<float> got = dq.to_host(), values = dv.to_host();
  for (std::size_t i = 0; i < 24; ++i) {
    EXPECT_EQ(std::isnan(got[i]), i / 8 == 1) << i;
    EXPECT_EQ(std::isnan(values[i]), i / 8 < 2) << i;  // keys that token 1 sees
  }
}

}  // namespace
}  // namespace voronoi
