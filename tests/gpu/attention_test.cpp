// Attention: the CUDA twins against the CPU's, fp32 and on operands rounded to 16 bits.
#include <algorithm>
#include <cmath>
#include <limits>

#include "gpu/gpu_fixture.h"
#include "support/attention_case.h"

namespace voronoi {
namespace {

using backend::Array;
using test::AttentionCase;

class GpuAttention : public test::GpuTest {
 protected:
  void compare(const AttentionCase& c, core::DType compute) {
    kernels::AttentionShape shape = shape_of(c);
    shape.compute = compute;
    const std::int64_t n_rows = c.n_sequences * c.n_tokens, n_keys = c.n_sequences * (c.n_past + c.n_tokens);
    std::vector<float> q = test::normal_values(n_rows * shape.ld_q, 1);
    for (float& value : q) value *= 2;  // some weights near one, most near none
    const std::vector<float> k = test::normal_values(n_keys * shape.ld_kv, 2),
                             v = test::normal_values(n_keys * shape.ld_kv, 3);
    std::vector<float> expected(static_cast<std::size_t>(n_rows * shape.ld_out), -7.0F);
    const Array<float> gpu_q = on_gpu(q), gpu_k = on_gpu(k), gpu_v = on_gpu(v);
    Array<float> out = on_gpu(expected);
    gpu().nn().attention(gpu().exec(), shape, gpu_q.data(), gpu_k.data(), gpu_v.data(), out.data());
    cpu().nn().attention(cpu().exec(), shape, q.data(), k.data(), v.data(), expected.data());
    // The weights sum to one, so an error of a share e in each moves the result by at most e max|v|. Shares: fp32's
    // exponentials of rounded scores; on tensor cores the numerators' rounding (2^-9 of bf16, 2^-11 of f16) and scores
    // summed with truncation.
    const float largest =
        std::abs(*std::max_element(v.begin(), v.end(), [](float a, float b) { return std::abs(a) < std::abs(b); }));
    const float share = compute == core::DType::f32    ? 1e-5F
                        : compute == core::DType::bf16 ? 0x1p-9F + 5e-5F
                                                       : 0x1p-11F + 5e-5F;
    const std::vector<float> got = out.to_host();
    for (std::size_t i = 0; i < got.size(); ++i)
      ASSERT_NEAR(got[i], expected[i], share * largest) << "value " << i << " of " << c;
  }

  void compare_all(core::DType compute) {
    const std::vector<AttentionCase> cases{
        {1, 1, 1, 1, 8, 0, 0, 0},     {3, 2, 2, 1, 10, 0, 0, 0},       {1, 33, 3, 1, 18, 0, 0, 0},
        {2, 65, 4, 2, 64, 0, 0, 0},   {1, 70, 14, 2, 64, 0, 0, 4},     {1, 50, 7, 1, 80, 0, 0, 1},
        {1, 97, 2, 2, 128, 0, 0, 0},  {1, 40, 2, 1, 256, 0, 0, 0},     {1, 35, 2, 1, 130, 0, 0, 3},
        {1, 130, 3, 1, 16, 1, 0, 0},  {1, 130, 3, 1, 16, 7, 0, 0},     {1, 150, 2, 2, 32, 64, 0, 0},
        {1, 60, 2, 1, 64, 60, 0, 0},  {1, 60, 2, 1, 64, 1000, 0, 0},   {1, 45, 4, 2, 32, 20, 3, 0},
        {1, 200, 7, 1, 64, 0, 0, 0},  {1, 1, 4, 2, 32, 0, 0, 0, 70},   {3, 20, 4, 2, 64, 0, 0, 0, 45},
        {2, 9, 2, 1, 16, 7, 0, 0, 3}, {1, 70, 3, 1, 40, 64, 2, 1, 90},
    };
    for (const AttentionCase& c : cases) {
      compare(c, compute);
      if (HasFatalFailure()) return;
    }
    if (is_emulated()) return;
    compare({2, 1500, 28, 4, 128, 0, 0, 0}, compute);
    compare({1, 3001, 8, 8, 96, 1024, 0, 0}, compute);
  }
};

TEST_F(GpuAttention, Fp32) { compare_all(core::DType::f32); }
TEST_F(GpuAttention, Bf16) { compare_all(core::DType::bf16); }
TEST_F(GpuAttention, F16) { compare_all(core::DType::f16); }

TEST_F(GpuAttention, SameBytesEveryTimeAndForEverySequence) {
  // A sequence alone, and the same one as the second of a batch.
  kernels::AttentionShape shape{};
  shape.n_sequences = 1;
  shape.n_tokens = 37;
  shape.n_heads = shape.n_kv_heads = 1;
  shape.head_dim = shape.ld_q = shape.ld_kv = shape.ld_out = 20;
  shape.scale = 0.3F;
  const std::int64_t n = shape.n_tokens * shape.head_dim;
  const std::vector<float> values = test::normal_values(6 * n, 5);
  const Array<float> x = on_gpu(values);
  for (const core::DType compute : {core::DType::f32, core::DType::bf16, core::DType::f16}) {
    shape.compute = compute;
    Array<float> alone(gpu(), n), batch(gpu(), 2 * n);
    shape.n_sequences = 1;
    gpu().nn().attention(gpu().exec(), shape, x.data() + n, x.data() + 3 * n, x.data() + 5 * n, alone.data());
    shape.n_sequences = 2;
    gpu().nn().attention(gpu().exec(), shape, x.data(), x.data() + 2 * n, x.data() + 4 * n, batch.data());
    const std::vector<float> one = alone.to_host(), two = batch.to_host();
    EXPECT_TRUE(std::equal(one.begin(), one.end(), two.begin() + n));
  }
}

TEST_F(GpuAttention, WhatIsNotFiniteIsNotHidden) {
  kernels::AttentionShape shape{};
  shape.n_sequences = 1;
  shape.n_tokens = 3;
  shape.n_heads = shape.n_kv_heads = 1;
  shape.head_dim = shape.ld_q = shape.ld_kv = shape.ld_out = 8;
  shape.scale = 1;
  std::vector<float> q(24, 1.0F);
  q[8] = std::numeric_limits<float>::quiet_NaN();  // token 1
  const std::vector<float> k(24, 0.5F), v(24, 2.0F);
  const Array<float> gpu_q = on_gpu(q), gpu_k = on_gpu(k), gpu_v = on_gpu(v);
  for (const core::DType compute : {core::DType::f32, core::DType::bf16, core::DType::f16}) {
    shape.compute = compute;
    Array<float> out(gpu(), 24);
    gpu().nn().attention(gpu().exec(), shape, gpu_q.data(), gpu_k.data(), gpu_v.data(), out.data());
    const std::vector<float> got = out.to_host();
    for (std::size_t i = 0; i < 24; ++i) EXPECT_EQ(std::isnan(got[i]), i / 8 == 1) << i;
  }
}

TEST_F(GpuAttention, HeadsBeyondTheKernelAreRefused) {
  kernels::AttentionShape shape{};
  shape.n_sequences = shape.n_tokens = shape.n_heads = shape.n_kv_heads = 1;
  shape.head_dim = shape.ld_q = shape.ld_kv = shape.ld_out = 257;
  const Array<float> x(gpu(), 257);
  Array<float> out(gpu(), 257);
  EXPECT_THROW(gpu().nn().attention(gpu().exec(), shape, x.data(), x.data(), x.data(), out.data()), core::DeviceError);
}

}  // namespace
}  // namespace voronoi
