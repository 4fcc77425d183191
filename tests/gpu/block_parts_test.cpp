// Operations of which only some architectures have use, and their derivatives: CUDA twins against the CPU's.
#include <gtest/gtest.h>

#include <cmath>

#include "gpu/gpu_fixture.h"
#include "support/attention_case.h"

namespace voronoi {
namespace {

using backend::Array;
using test::normal_values;

class GpuBlockParts : public test::GpuTest {
 protected:
  const kernels::NnKernels& twin() { return gpu().nn(); }
  const kernels::NnKernels& oracle() { return cpu().nn(); }
  const kernels::NnGradientKernels& twin_gradient() { return gpu().nn_gradient(); }
  const kernels::NnGradientKernels& gradient() { return cpu().nn_gradient(); }

  static void expect_near(const std::vector<float>& a, const std::vector<float>& b, float bound) {
    ASSERT_EQ(a.size(), b.size());
    for (std::size_t i = 0; i < a.size(); ++i) ASSERT_NEAR(a[i], b[i], bound * (1 + std::fabs(b[i]))) << i;
  }
};

TEST_F(GpuBlockParts, RopeOfPartsAndNeighbours) {
  for (const bool interleaved : {false, true})
    for (const std::int64_t n_turned : {2, 18, 64}) {
      const std::int64_t head_dim = n_turned + 6, n_rows = 10, ld = 3 * head_dim + 1;
      const kernels::RopeShape shape{n_rows, 5, 3, head_dim, n_turned, interleaved};
      const std::vector<float> x = normal_values(n_rows * ld, 1), turns = normal_values(5 * n_turned, 2);
      const Array<float> gpu_turns = on_gpu(turns);
      Array<float> out = on_gpu(x), back = on_gpu(x);
      std::vector<float> expected = x, expected_back = x;
      twin().rope(gpu().exec(), shape, gpu_turns.data(), out.data(), ld);
      oracle().rope(cpu().exec(), shape, turns.data(), expected.data(), ld);
      EXPECT_EQ(out.to_host(), expected);
      twin_gradient().rope(gpu().exec(), shape, gpu_turns.data(), back.data(), ld);
      gradient().rope(cpu().exec(), shape, turns.data(), expected_back.data(), ld);
      EXPECT_EQ(back.to_host(), expected_back);
    }
}

TEST_F(GpuBlockParts, LayerNorm) {
  for (const std::int64_t dim : {2, 54, 600}) {
    const std::int64_t n_rows = 70, ld = dim + 3;
    const std::vector<float> x = normal_values(n_rows * ld, 3), weight = normal_values(dim, 4),
                             d_out = normal_values(n_rows * ld, 5);
    const Array<float> gpu_x = on_gpu(x), gpu_weight = on_gpu(weight), gpu_d = on_gpu(d_out);
    Array<float> out = on_gpu(x);
    std::vector<float> expected = x;
    twin().layer_norm(gpu().exec(), n_rows, dim, out.data(), ld, gpu_weight.data(), 1e-5F, out.data(), ld);
    oracle().layer_norm(cpu().exec(), n_rows, dim, expected.data(), ld, weight.data(), 1e-5F, expected.data(), ld);
    // Two close values have a variance that is mostly rounding.
    expect_near(out.to_host(), expected, dim == 2 ? 1e-4F : 1e-5F);
    for (const bool accumulate : {false, true}) {
      Array<float> dx = on_gpu(x), sum = on_gpu(weight);
      std::vector<float> expected_dx = x, expected_sum = weight;
      twin_gradient().layer_norm(gpu().exec(), n_rows, dim, gpu_x.data(), ld, gpu_weight.data(), 0.1F, gpu_d.data(), ld,
                                 accumulate, dx.data(), ld, sum.data());
      gradient().layer_norm(cpu().exec(), n_rows, dim, x.data(), ld, weight.data(), 0.1F, d_out.data(), ld, accumulate,
                            expected_dx.data(), ld, expected_sum.data());
      expect_near(dx.to_host(), expected_dx, 1e-5F);
      expect_near(sum.to_host(), expected_sum, 2e-5F);
    }
  }
}

TEST_F(GpuBlockParts, ClampedGates) {
  const std::int64_t n = 1021;
  std::vector<float> gate = normal_values(n, 6), up = normal_values(n, 7);
  gate[5] = -300;
  const std::vector<float> d_out = normal_values(n, 8);
  const Array<float> gpu_gate = on_gpu(gate), gpu_up = on_gpu(up), gpu_d = on_gpu(d_out);
  Array<float> out(gpu(), n), d_gate(gpu(), n), d_up(gpu(), n);
  std::vector<float> expected(gate.size()), expected_gate(gate.size()), expected_up(gate.size());
  twin().clamped_swiglu(gpu().exec(), n, 1.5F, gpu_gate.data(), gpu_up.data(), out.data());
  oracle().clamped_swiglu(cpu().exec(), n, 1.5F, gate.data(), up.data(), expected.data());
  expect_near(out.to_host(), expected, 2e-6F);
  twin_gradient().clamped_swiglu(gpu().exec(), n, 1.5F, gpu_gate.data(), gpu_up.data(), gpu_d.data(), d_gate.data(),
                                 d_up.data());
  gradient().clamped_swiglu(cpu().exec(), n, 1.5F, gate.data(), up.data(), d_out.data(), expected_gate.data(),
                            expected_up.data());
  expect_near(d_gate.to_host(), expected_gate, 2e-6F);
  expect_near(d_up.to_host(), expected_up, 2e-6F);
}

TEST_F(GpuBlockParts, SigmoidRouters) {
  const std::int64_t n_rows = 21;
  for (const auto& [n_experts, top_k, n_groups, top_groups] : std::vector<std::array<std::int64_t, 4>>{
           {6, 2, 1, 1}, {40, 7, 1, 1}, {64, 8, 8, 3}, {128, 3, 64, 64}, {6, 3, 3, 2}})
    for (const bool renormalise : {false, true})
      for (const bool with_bias : {false, true}) {
        const kernels::RouteShape shape{n_rows, n_experts, top_k, renormalise, true, n_groups, top_groups, 2.5F};
        std::vector<float> logits = normal_values(n_rows * n_experts, 9);
        logits[3] = NAN;
        const std::vector<float> bias = normal_values(n_experts, 10), d_weight = normal_values(n_rows * top_k, 11);
        const Array<float> gpu_logits = on_gpu(logits), gpu_bias = on_gpu(bias), gpu_d = on_gpu(d_weight);
        Array<std::int32_t> expert(gpu(), n_rows * top_k);
        Array<float> weight(gpu(), n_rows * top_k), d_logits(gpu(), n_rows * n_experts);
        std::vector<std::int32_t> expected(static_cast<std::size_t>(n_rows * top_k));
        std::vector<float> expected_weight(expected.size()), expected_d(logits.size());
        twin().route(gpu().exec(), shape, gpu_logits.data(), with_bias ? gpu_bias.data() : nullptr, expert.data(),
                     weight.data());
        oracle().route(cpu().exec(), shape, logits.data(), with_bias ? bias.data() : nullptr, expected.data(),
                       expected_weight.data());
        EXPECT_EQ(expert.to_host(), expected);
        const std::vector<float> got = weight.to_host();
        for (std::size_t i = 0; i < got.size(); ++i) {
          if (i < static_cast<std::size_t>(top_k)) {
            EXPECT_TRUE(std::isnan(got[i]) && std::isnan(expected_weight[i])) << "a NaN among the logits";
            continue;
          }
          EXPECT_NEAR(got[i], expected_weight[i], 2e-6F);
        }
        logits[3] = 0.25F;
        const Array<float> sound = on_gpu(logits);
        twin().route(gpu().exec(), shape, sound.data(), nullptr, expert.data(), weight.data());
        twin_gradient().route(gpu().exec(), shape, sound.data(), expert.data(), weight.data(), gpu_d.data(),
                              d_logits.data());
        gradient().route(cpu().exec(), shape, logits.data(), expert.to_host().data(), weight.to_host().data(),
                         d_weight.data(), expected_d.data());
        expect_near(d_logits.to_host(), expected_d, 4e-6F);
      }
}

TEST_F(GpuBlockParts, PartsOfRows) {
  const kernels::HeadParts apart{7, 5, 3, 41, 8, 50, 9}, same{7, 5, 3, 41, 0, 50, 9};
  const std::vector<float> x = normal_values(7 * 41, 12), before = normal_values(7 * 50, 13);
  const Array<float> gpu_x = on_gpu(x);
  for (const kernels::HeadParts& parts : {apart, same}) {
    Array<float> out = on_gpu(before);
    std::vector<float> expected = before;
    twin().copy_heads(gpu().exec(), parts, gpu_x.data(), out.data());
    oracle().copy_heads(cpu().exec(), parts, x.data(), expected.data());
    EXPECT_EQ(out.to_host(), expected);
  }
  Array<float> out = on_gpu(before);
  std::vector<float> expected = before;
  twin_gradient().sum_heads(gpu().exec(), apart, gpu_x.data(), out.data());
  gradient().sum_heads(cpu().exec(), apart, x.data(), expected.data());
  EXPECT_EQ(out.to_host(), expected);
}

TEST_F(GpuBlockParts, Sinks) {
  for (const test::AttentionCase& c : {test::AttentionCase{2, 70, 4, 2, 20, 0}, test::AttentionCase{1, 90, 3, 1, 12, 9},
                                       test::AttentionCase{1, 40, 2, 2, 66, 0}}) {
    kernels::AttentionShape shape = shape_of(c);
    const std::int64_t n_rows = c.n_sequences * c.n_tokens;
    const std::vector<float> q = normal_values(n_rows * shape.ld_q, 1), k = normal_values(n_rows * shape.ld_kv, 2),
                             v = normal_values(n_rows * shape.ld_kv, 3), sinks{0.5F, -1, 2, 6},
                             d_out = normal_values(n_rows * shape.ld_out, 4);
    const Array<float> gpu_q = on_gpu(q), gpu_k = on_gpu(k), gpu_v = on_gpu(v), gpu_sinks = on_gpu(sinks),
                       gpu_d = on_gpu(d_out);
    std::vector<float> expected(d_out.size()), dq(q.size()), dk(k.size()), dv(v.size()),
        d_sinks(static_cast<std::size_t>(n_rows * c.n_heads));
    kernels::AttentionShape on_host = shape, on_device = shape;
    on_host.sinks = sinks.data();
    on_device.sinks = gpu_sinks.data();
    for (const core::DType dtype : {core::DType::f16, core::DType::bf16, core::DType::f32}) {
      on_host.compute = on_device.compute = dtype;
      Array<float> out(gpu(), std::ssize(expected));
      gpu().nn().attention(gpu().exec(), on_device, gpu_q.data(), gpu_k.data(), gpu_v.data(), out.data());
      cpu().nn().attention(cpu().exec(), on_host, q.data(), k.data(), v.data(), expected.data());
      expect_near(out.to_host(), expected, dtype == core::DType::f32 ? 1e-5F : 0.01F);
      if (c.n_sequences > 1) continue;
      Array<float> last(gpu(), 2 * shape.ld_out);
      std::vector<float> expected_last(static_cast<std::size_t>(2 * shape.ld_out));
      kernels::AttentionShape two_host = on_host, two_device = on_device;
      two_host.n_tokens = two_device.n_tokens = 2;
      const std::int64_t past = c.n_tokens - 2;
      gpu().nn().cached_attention(gpu().exec(), two_device, past, gpu_q.data() + past * shape.ld_q, gpu_k.data(),
                                  gpu_v.data(), last.data());
      cpu().nn().cached_attention(cpu().exec(), two_host, past, q.data() + past * shape.ld_q, k.data(), v.data(),
                                  expected_last.data());
      expect_near(last.to_host(), expected_last, 1e-5F);
    }
    const Array<float> gpu_out = on_gpu(expected);
    Array<float> gpu_dq(gpu(), std::ssize(q)), gpu_dk(gpu(), std::ssize(k)), gpu_dv(gpu(), std::ssize(v)),
        gpu_d_sinks(gpu(), std::ssize(d_sinks));
    twin_gradient().attention(gpu().exec(), on_device, gpu_q.data(), gpu_k.data(), gpu_v.data(), gpu_out.data(),
                              gpu_d.data(), gpu_dq.data(), gpu_dk.data(), gpu_dv.data(), gpu_d_sinks.data());
    gradient().attention(cpu().exec(), on_host, q.data(), k.data(), v.data(), expected.data(), d_out.data(), dq.data(),
                         dk.data(), dv.data(), d_sinks.data());
    expect_near(gpu_dq.to_host(), dq, 1e-5F);
    expect_near(gpu_dk.to_host(), dk, 1e-5F);
    expect_near(gpu_dv.to_host(), dv, 1e-5F);
    expect_near(gpu_d_sinks.to_host(), d_sinks, 1e-5F);
  }
}

}  // namespace
}  // namespace voronoi
