// The gated delta rule and what stands around it: CUDA twins against the CPU's.
#include <gtest/gtest.h>

#include <cmath>

#include "gpu/gpu_fixture.h"

namespace voronoi {
namespace {

using backend::Array;
using test::normal_values;

class GpuDeltaRule : public test::GpuTest {
 protected:
  const kernels::DeltaRuleKernels& twin() { return gpu().delta_rule(); }
  const kernels::DeltaRuleKernels& oracle() { return cpu().delta_rule(); }

  static void expect_near(const std::vector<float>& a, const std::vector<float>& b, float bound) {
    ASSERT_EQ(a.size(), b.size());
    for (std::size_t i = 0; i < a.size(); ++i) ASSERT_NEAR(a[i], b[i], bound * (1 + std::fabs(b[i]))) << i;
  }
};

TEST_F(GpuDeltaRule, Convolution) {
  for (const kernels::ConvShape& shape :
       {kernels::ConvShape{2, 5, 19, 4}, kernels::ConvShape{1, 70, 300, 3}, kernels::ConvShape{3, 1, 8, 1}}) {
    const std::int64_t n = shape.n_sequences * shape.n_tokens * shape.channels;
    const std::vector<float> x = normal_values(n, 1), weight = normal_values(shape.channels * shape.width, 2),
                             d_out = normal_values(n, 3),
                             past = normal_values(shape.n_sequences * (shape.width - 1) * shape.channels + 1, 4);
    const Array<float> gpu_x = on_gpu(x), gpu_weight = on_gpu(weight), gpu_past = on_gpu(past);
    Array<float> out(gpu(), n), dx(gpu(), n), slopes = on_gpu(d_out), d_weight = on_gpu(weight);
    std::vector<float> expected(x.size()), expected_dx(x.size()), expected_slopes = d_out, expected_weight = weight;
    for (const bool continues : {false, true}) {
      twin().conv(gpu().exec(), shape, gpu_x.data(), continues ? gpu_past.data() : nullptr, gpu_weight.data(),
                  out.data());
      oracle().conv(cpu().exec(), shape, x.data(), continues ? past.data() : nullptr, weight.data(), expected.data());
      expect_near(out.to_host(), expected, 2e-6F);
    }
    twin().conv_gradient(gpu().exec(), shape, gpu_x.data(), gpu_weight.data(), slopes.data(), dx.data(),
                         d_weight.data());
    oracle().conv_gradient(cpu().exec(), shape, x.data(), weight.data(), expected_slopes.data(), expected_dx.data(),
                           expected_weight.data());
    expect_near(slopes.to_host(), expected_slopes, 2e-6F);
    expect_near(dx.to_host(), expected_dx, 5e-6F);
    expect_near(d_weight.to_host(), expected_weight, 2e-5F);
  }
}

TEST_F(GpuDeltaRule, Gates) {
  const std::int64_t n_rows = 9, n_groups = 3, n_heads = 6, n = n_rows * 2 * n_heads;
  std::vector<float> x = normal_values(n, 5);
  x[0] = 90;
  x[3] = -90;
  const std::vector<float> decay = normal_values(n_heads, 6), bias = normal_values(n_heads, 7),
                           d_gates = normal_values(n, 8);
  const Array<float> gpu_x = on_gpu(x), gpu_decay = on_gpu(decay), gpu_bias = on_gpu(bias), gpu_d = on_gpu(d_gates);
  Array<float> gates(gpu(), n), dx(gpu(), n), terms(gpu(), n);
  std::vector<float> expected(x.size()), expected_dx(x.size()), expected_terms(x.size());
  twin().gates(gpu().exec(), n_rows, n_groups, n_heads, gpu_x.data(), gpu_decay.data(), gpu_bias.data(), gates.data());
  oracle().gates(cpu().exec(), n_rows, n_groups, n_heads, x.data(), decay.data(), bias.data(), expected.data());
  expect_near(gates.to_host(), expected, 2e-6F);
  twin().gates_gradient(gpu().exec(), n_rows, n_groups, n_heads, gpu_x.data(), gpu_decay.data(), gpu_bias.data(),
                        gates.data(), gpu_d.data(), dx.data(), terms.data());
  oracle().gates_gradient(cpu().exec(), n_rows, n_groups, n_heads, x.data(), decay.data(), bias.data(), expected.data(),
                          d_gates.data(), expected_dx.data(), expected_terms.data());
  expect_near(dx.to_host(), expected_dx, 4e-6F);
  expect_near(terms.to_host(), expected_terms, 4e-6F);
}

TEST_F(GpuDeltaRule, RuleAndItsDerivative) {
  const std::int64_t chunk = kernels::kDeltaChunk;
  for (const kernels::DeltaShape& shape : {kernels::DeltaShape{2, 5, 5, 2, 4, 5, 7, 30, 0.5F},
                                           kernels::DeltaShape{1, chunk + 3, chunk + 3, 1, 2, 10, 40, 81, 0.3F},
                                           kernels::DeltaShape{1, 3, 3, 1, 1, 33, 270, 270, 0.2F}}) {
    const std::int64_t rows = shape.n_sequences * shape.n_tokens, keys = rows * shape.n_key_heads * shape.key_dim,
                       n_out = rows * shape.n_heads * shape.value_dim, n_gates = rows * 2 * shape.n_heads,
                       n_state = shape.n_sequences * shape.n_heads * shape.key_dim * shape.value_dim;
    std::vector<float> q = normal_values(keys, 9), k = normal_values(keys, 10), gates = normal_values(n_gates, 11);
    for (float& value : k) value /= std::sqrt(static_cast<float>(shape.key_dim));
    for (float& gate : gates) gate = 1 / (1 + std::exp(-gate));
    const std::vector<float> v = normal_values(rows * shape.ld_v, 12), d_out = normal_values(n_out, 13),
                             before = normal_values(n_state, 14);
    const Array<float> gpu_q = on_gpu(q), gpu_k = on_gpu(k), gpu_v = on_gpu(v), gpu_gates = on_gpu(gates),
                       gpu_d = on_gpu(d_out);
    Array<float> out(gpu(), n_out), state = on_gpu(before);
    std::vector<float> expected(d_out.size()), expected_state = before;
    for (const bool continues : {false, true}) {
      twin().rule(gpu().exec(), shape, gpu_q.data(), gpu_k.data(), gpu_v.data(), gpu_gates.data(),
                  continues ? state.data() : nullptr, out.data(), state.data());
      oracle().rule(cpu().exec(), shape, q.data(), k.data(), v.data(), gates.data(),
                    continues ? expected_state.data() : nullptr, expected.data(), expected_state.data());
      expect_near(out.to_host(), expected, 2e-5F);
      expect_near(state.to_host(), expected_state, 2e-5F);
    }
    const std::int64_t head_keys = rows * shape.n_heads * shape.key_dim;
    Array<float> dq(gpu(), head_keys), dk(gpu(), head_keys), dv = on_gpu(v), d_gates(gpu(), n_gates);
    std::vector<float> expected_dq(static_cast<std::size_t>(head_keys)), expected_dk = expected_dq, expected_dv = v,
                                                                         expected_gates(gates.size());
    twin().rule_gradient(gpu().exec(), shape, gpu_q.data(), gpu_k.data(), gpu_v.data(), gpu_gates.data(), gpu_d.data(),
                         dq.data(), dk.data(), dv.data(), d_gates.data());
    oracle().rule_gradient(cpu().exec(), shape, q.data(), k.data(), v.data(), gates.data(), d_out.data(),
                           expected_dq.data(), expected_dk.data(), expected_dv.data(), expected_gates.data());
    expect_near(dq.to_host(), expected_dq, 1e-4F);
    expect_near(dk.to_host(), expected_dk, 1e-4F);
    expect_near(dv.to_host(), expected_dv, 1e-4F);
    expect_near(d_gates.to_host(), expected_gates, 1e-4F);
  }
}

TEST_F(GpuDeltaRule, SigmoidGates) {
  const std::int64_t n = 1021;
  std::vector<float> gate = normal_values(n, 15);
  gate[5] = -300;
  const std::vector<float> x = normal_values(n, 16), d_out = normal_values(n, 17);
  const Array<float> gpu_gate = on_gpu(gate), gpu_x = on_gpu(x), gpu_d = on_gpu(d_out);
  Array<float> out(gpu(), n), d_gate(gpu(), n), dx(gpu(), n);
  std::vector<float> expected(x.size()), expected_gate(x.size()), expected_dx(x.size());
  twin().sigmoid_gate(gpu().exec(), n, gpu_gate.data(), gpu_x.data(), out.data());
  oracle().sigmoid_gate(cpu().exec(), n, gate.data(), x.data(), expected.data());
  expect_near(out.to_host(), expected, 2e-6F);
  twin().sigmoid_gate_gradient(gpu().exec(), n, gpu_gate.data(), gpu_x.data(), gpu_d.data(), d_gate.data(), dx.data());
  oracle().sigmoid_gate_gradient(cpu().exec(), n, gate.data(), x.data(), d_out.data(), expected_gate.data(),
                                 expected_dx.data());
  expect_near(d_gate.to_host(), expected_gate, 2e-6F);
  expect_near(dx.to_host(), expected_dx, 2e-6F);
}

}  // namespace
}  // namespace voronoi
