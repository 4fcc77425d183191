#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "gpu/gpu_fixture.h"
#include "support/random_packed.h"

namespace voronoi::test {
namespace {

class GpuPacked : public GpuTest, public ::testing::WithParamInterface<PackedCase> {
 protected:
  const format::Encoding& encoding() const { return GetParam().encoding; }
  std::unique_ptr<format::PackedMatrix> on(backend::Context& context) const {
    return encoding().format->upload(context, encoding());
  }
};

/// Of formats with numbers to tune.
class GpuTuned : public GpuPacked {};

TEST_P(GpuPacked, DecodesTheSameBits) {
  ASSERT_EQ(format::find_problem(encoding()), "");
  const auto here = on(cpu()), there = on(gpu());
  // Beside what is stored, the matrices that a rotation is made of.
  if (encoding().format == &format::e8p_format() || encoding().format == &format::trellis_format())
    EXPECT_GE(8 * there->size_bytes(), format::stored_bits(encoding()));
  else
    EXPECT_EQ(8 * there->size_bytes(), format::stored_bits(encoding()));
  const std::int64_t n = encoding().out_features * encoding().in_features;
  std::vector<float> expected(static_cast<std::size_t>(n)), decoded(expected.size());
  format::decode(encoding(), expected);
  here->decode_f32(cpu(), decoded.data());
  EXPECT_EQ(decoded, expected);
  backend::Array<float> wide(gpu(), n);
  there->decode_f32(gpu(), wide.data());
  EXPECT_EQ(wide.to_host(), expected);

  std::vector<std::uint16_t> expected_bits(expected.size());
  here->decode_16(cpu(), expected_bits.data());
  for (std::size_t i = 0; i < expected.size(); ++i)
    ASSERT_EQ(expected_bits[i], core::to_bits16(encoding().dtype, expected[i])) << i;
  backend::Array<std::uint16_t> narrow(gpu(), n);
  there->decode_16(gpu(), narrow.data());
  EXPECT_EQ(narrow.to_host(), expected_bits);
}

TEST_P(GpuPacked, MultipliesWithinTheRoundingOfItsSums) {
  const std::int64_t out_features = encoding().out_features, in_features = encoding().in_features;
  const auto here = on(cpu()), there = on(gpu());
  ASSERT_EQ(there->max_tokens(), 16);
  std::vector<float> w(static_cast<std::size_t>(out_features * in_features));
  format::decode(encoding(), w);
  for (const std::int64_t n_tokens : {1, 3, 16}) {
    const std::vector<float> x = normal_values(n_tokens * in_features, 7);
    const std::vector<float> before = normal_values(n_tokens * out_features, 8);
    for (const bool accumulate : {false, true}) {
      const backend::Array<float> gpu_x = on_gpu(x);
      backend::Array<float> gpu_out = on_gpu(before);
      there->multiply(gpu(), n_tokens, gpu_x.data(), accumulate, gpu_out.data());
      std::vector<float> cpu_out = before;
      here->multiply(cpu(), n_tokens, x.data(), accumulate, cpu_out.data());
      const std::vector<float> out = gpu_out.to_host();
      for (std::int64_t t = 0; t < n_tokens; ++t)
        for (std::int64_t row = 0; row < out_features; ++row) {
          const auto at = static_cast<std::size_t>(t * out_features + row);
          double sum = accumulate ? static_cast<double>(before[at]) : 0.0, size = std::fabs(sum);
          for (std::int64_t c = 0; c < in_features; ++c) {
            const double term = static_cast<double>(w[static_cast<std::size_t>(row * in_features + c)]) *
                                static_cast<double>(x[static_cast<std::size_t>(t * in_features + c)]);
            sum += term;
            size += std::fabs(term);
          }
          // Few roundings a term and at most in / 16 additions one after another; VPTQ's scale and bias are taken
          // apart, so a term may be larger than the weight by a factor of a few.
          const double bound = 4 * size * static_cast<double>(16 + in_features / 16) * 0x1p-24 + 1e-6;
          EXPECT_NEAR(static_cast<double>(out[at]), sum, bound) << "token " << t << ", row " << row;
          EXPECT_NEAR(static_cast<double>(cpu_out[at]), sum, bound) << "token " << t << ", row " << row;
        }
    }
  }
}

TEST_P(GpuTuned, NumbersDecodeTheSameBitsAndHaveTheSameGradient) {
  const auto here = encoding().format->tuned(cpu(), encoding()), there = encoding().format->tuned(gpu(), encoding());
  EXPECT_EQ(there == nullptr, here == nullptr);
  if (!here) return;  // the format has no parameters
  EXPECT_EQ(there->size_bytes(), here->size_bytes());
  const std::int64_t n = encoding().out_features * encoding().in_features;
  std::vector<float> parameters = here->initial();
  EXPECT_EQ(there->initial(), parameters);
  const std::vector<float> step = normal_values(here->n_parameters(), 3), d_weight = normal_values(n, 4);
  for (std::size_t i = 0; i < step.size(); ++i) parameters[i] += 0.01F * step[i];
  const backend::Array<float> gpu_parameters = on_gpu(parameters), gpu_d_weight = on_gpu(d_weight);
  std::vector<float> expected(static_cast<std::size_t>(n));
  here->decode(cpu(), parameters.data(), expected.data());
  backend::Array<float> weight(gpu(), n);
  there->decode(gpu(), gpu_parameters.data(), weight.data());
  EXPECT_EQ(weight.to_host(), expected);
  // Codes that went to the host come back beside the computing.
  there->leave_device();
  there->enter_device(false);
  gpu().memory().uploads_join(gpu().exec());
  weight.zero();
  there->decode(gpu(), gpu_parameters.data(), weight.data());
  EXPECT_EQ(weight.to_host(), expected);

  const std::vector<float> before = normal_values(here->n_parameters(), 5);
  std::vector<float> gradient = before, size(before.size());
  here->add_gradient(cpu(), parameters.data(), expected.data(), d_weight.data(), gradient.data());
  backend::Array<float> ours = on_gpu(before), again = on_gpu(before);
  there->add_gradient(gpu(), gpu_parameters.data(), weight.data(), gpu_d_weight.data(), ours.data());
  there->add_gradient(gpu(), gpu_parameters.data(), weight.data(), gpu_d_weight.data(), again.data());
  const std::vector<float> got = ours.to_host();
  EXPECT_EQ(again.to_host(), got);
  // Roundings of sums of up to a column's terms of size about one, or a group's of some steps.
  const double bound = 1e-6 * std::sqrt(static_cast<double>(n)) *
                       (encoding().format == &format::vptq_format() ? 1.0 : std::exp2(nominal_bits(encoding())));
  for (std::size_t i = 0; i < got.size(); ++i)
    ASSERT_NEAR(got[i], gradient[i], bound + 1e-5 * static_cast<double>(std::fabs(gradient[i]))) << i;

  const format::Encoding rounded = there->rounded(parameters);
  EXPECT_TRUE(rounded == here->rounded(parameters));
}

TEST_P(GpuTuned, AGradientThatIsNotFiniteIsNotHidden) {
  const auto there = encoding().format->tuned(gpu(), encoding());
  if (!there) return;
  std::vector<float> d_weight(static_cast<std::size_t>(encoding().out_features * encoding().in_features), 1.0F);
  d_weight.back() = std::numeric_limits<float>::quiet_NaN();
  const backend::Array<float> parameters = on_gpu(there->initial()), gpu_d_weight = on_gpu(d_weight);
  backend::Array<float> gradient(gpu(), there->n_parameters()), weight(gpu(), gpu_d_weight.size());
  gradient.zero();
  there->decode(gpu(), parameters.data(), weight.data());
  there->add_gradient(gpu(), parameters.data(), weight.data(), gpu_d_weight.data(), gradient.data());
  const std::vector<float> values = gradient.to_host();
  for (const format::ParameterRun& run : there->runs()) {
    bool found = false;
    for (std::int64_t i = run.first; i < run.first + run.size; ++i)
      found = found || std::isnan(values[static_cast<std::size_t>(i)]);
    EXPECT_TRUE(found) << run.array;
  }
}

auto vptq_cases() {
  return ::testing::Values(case_of(PackedShape{24, 64, 4, 8, 0}), case_of(PackedShape{37, 101, 6, 12, 0}),
                           case_of(PackedShape{50, 70, 8, 12, 8, 1, 0, 0, 0, false, core::DType::bf16}),
                           case_of(PackedShape{45, 1100, 8, 13, 0}), case_of(PackedShape{39, 66, 12, 9, 9}),
                           case_of(PackedShape{35, 90, 16, 8, 4, 1, 0, 0, 0, true}),
                           case_of(PackedShape{41, 96, 6, 8, 5, 3, 6, 4, 37, true, core::DType::bf16}),
                           case_of(PackedShape{19, 40, 4, 16, 16, 2, 10, 8, 300, true}),
                           case_of(PackedShape{5, 33, 8, 1, 1}));
}

/// Every way a code may lie across words, tails of rows and groups, several groups a warp's step, several splits of a
/// row.
auto uniform_cases() {
  return ::testing::Values(case_of(UniformShape{24, 64, 2, 64}), case_of(UniformShape{37, 101, 3, 16, true}),
                           case_of(UniformShape{34, 70, 4, 70, false, core::DType::bf16}),
                           case_of(UniformShape{9, 1100, 2, 64, true, core::DType::bf16}),
                           case_of(UniformShape{9, 1300, 3, 1300}), case_of(UniformShape{5, 600, 4, 7}),
                           case_of(UniformShape{33, 33, 8, 32}), case_of(UniformShape{3, 90, 16, 48}),
                           case_of(UniformShape{7, 65, 11, 5}), case_of(UniformShape{1, 1, 1, 1}));
}

/// Vectors of all lengths, groups and strips with short ends, both kinds of codebooks, blocks, several splits of a row.
auto gptvq_cases() {
  return ::testing::Values(case_of(GptvqShape{24, 64, 2, 4, 8, 32}), case_of(GptvqShape{37, 102, 2, 6, 10, 40, 16}),
                           case_of(GptvqShape{34, 72, 4, 8, 34, 24, 8, 16, true}),
                           case_of(GptvqShape{9, 1100, 4, 8, 5, 256, 8, 0, true, core::DType::bf16}),
                           case_of(GptvqShape{5, 1300, 1, 2, 1, 256, 16, 64, false, core::DType::bf16}),
                           case_of(GptvqShape{7, 33, 1, 11, 3, 16}), case_of(GptvqShape{1, 1, 1, 1, 1, 1}));
}

/// Both widths of codes, parts of 8, 4 and 1 columns, several splits of a row, one codebook and many.
auto aqlm_cases() {
  return ::testing::Values(case_of(AqlmShape{24, 64}), case_of(AqlmShape{37, 96, 3, 5, 16, core::DType::bf16}),
                           case_of(AqlmShape{9, 1200, 2, 11, 4}), case_of(AqlmShape{5, 1100, 1, 9, 2}),
                           case_of(AqlmShape{34, 72, 1, 12, 24, core::DType::bf16}),
                           case_of(AqlmShape{3, 2400, 8, 8, 8}), case_of(AqlmShape{1, 1, 1, 1, 1}));
}

INSTANTIATE_TEST_SUITE_P(Vptq, GpuPacked, vptq_cases());
INSTANTIATE_TEST_SUITE_P(Aqlm, GpuPacked, aqlm_cases());
INSTANTIATE_TEST_SUITE_P(Aqlm, GpuTuned, aqlm_cases());
INSTANTIATE_TEST_SUITE_P(Uniform, GpuPacked, uniform_cases());
INSTANTIATE_TEST_SUITE_P(Gptvq, GpuPacked, gptvq_cases());
INSTANTIATE_TEST_SUITE_P(Gptvq, GpuTuned, gptvq_cases());
INSTANTIATE_TEST_SUITE_P(Vptq, GpuTuned, vptq_cases());
INSTANTIATE_TEST_SUITE_P(Uniform, GpuTuned, uniform_cases());

// Sizes with a factor, without one, and without any matrix; rows of codes with a tail; more codes than a warp's step.
auto e8p_cases() {
  return ::testing::Values(case_of(E8pShape{24, 64, 2}), case_of(E8pShape{20, 36, 3}),
                           case_of(E8pShape{37, 101, 4, true, core::DType::bf16}), case_of(E8pShape{9, 1100, 2}),
                           case_of(E8pShape{12, 128, 3, false}), case_of(E8pShape{1, 1, 4}),
                           case_of(E8pShape{70, 36, 2, true, core::DType::bf16, true}),
                           case_of(E8pShape{12, 300, 3, false, core::DType::f16, true}));
}
auto trellis_cases() {
  return ::testing::Values(case_of(TrellisShape{24, 64, 2}), case_of(TrellisShape{276, 20, 3, 14}),
                           case_of(TrellisShape{37, 101, 4, 16, 1, true, core::DType::bf16}),
                           case_of(TrellisShape{9, 1100, 1, 12, 2}), case_of(TrellisShape{272, 20, 5, 16, 0, false}),
                           case_of(TrellisShape{1, 1, 2}),
                           case_of(TrellisShape{70, 36, 2, 16, 0, true, core::DType::bf16, true}),
                           case_of(TrellisShape{12, 300, 3, 16, 0, false, core::DType::f16, true}));
}
INSTANTIATE_TEST_SUITE_P(E8p, GpuPacked, e8p_cases());
INSTANTIATE_TEST_SUITE_P(E8p, GpuTuned, e8p_cases());
INSTANTIATE_TEST_SUITE_P(Trellis, GpuPacked, trellis_cases());
INSTANTIATE_TEST_SUITE_P(Trellis, GpuTuned, trellis_cases());

// Columns with scales, in both forms of codes of single weights.
INSTANTIATE_TEST_SUITE_P(Scaled, GpuPacked,
                         ::testing::Values(case_of(UniformShape{37, 101, 3, 16, true, core::DType::f16, true}),
                                           case_of(UniformShape{24, 70, 4, 64, false, core::DType::bf16, true})));

INSTANTIATE_TEST_SUITE_P(
    SignedLevels, GpuPacked,
    ::testing::Values(case_of(SignedShape{24, 64, 3, format::LevelTable::normal, 64}),
                      case_of(SignedShape{37, 101, 4, format::LevelTable::normal, 16, true}),
                      case_of(SignedShape{34, 70, 4, format::LevelTable::floating, 70, false, core::DType::bf16, true}),
                      case_of(SignedShape{9, 1300, 3, format::LevelTable::floating, 5, true, core::DType::f16, true})));

}  // namespace
}  // namespace voronoi::test
