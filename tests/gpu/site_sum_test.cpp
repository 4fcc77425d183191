// Rows that enter no Hessian: the device finds and leaves out the same as the CPU.
#include "calib/site_sum.h"

#include <cmath>
#include <limits>

#include "gpu/gpu_fixture.h"
#include "support/tree_mean.h"

namespace voronoi {
namespace {

class SiteSumTest : public test::GpuTest {};

TEST_F(SiteSumTest, LeavesOutTheRowsThatTheCpuLeavesOut) {
  for (const core::DType dtype : {core::DType::f32, core::DType::f16, core::DType::bf16})
    for (const std::int64_t n : {1, 33, 100}) {
      const std::int64_t rows = 70;
      std::vector<float> x = test::normal_values(rows * n, 5);
      const auto look = [&](backend::Context& context, const float* values) {
        calib::SiteSum sum(context, n, dtype);
        sum.start(false);
        sum.add(values, rows);
        const bool sound = sum.sound();
        sum.start(false);
        sum.add_sound_rows(values, rows);
        const auto bad = sum.first_bad();
        sum.finish(0);
        const std::int64_t n_tokens = test::tokens_of(sum.tree()), n_left_out = test::left_out_of(sum.tree());
        const std::vector<float> mean = test::mean_of(context, sum.tree()).values;
        for (const float value : mean) EXPECT_TRUE(std::isfinite(value));
        return std::tuple(sound, n_tokens, n_left_out, bad ? bad->row : -1, bad ? bad->channel : -1);
      };
      const auto expect_alike = [&](bool sound, std::int64_t left_out, std::int64_t row, std::int64_t channel) {
        const auto device = on_gpu(x);
        const auto found = look(gpu(), device.data());
        EXPECT_EQ(found, std::tuple(sound, rows - left_out, left_out, row, channel)) << n;
        EXPECT_EQ(found, look(cpu(), x.data())) << n;
      };
      expect_alike(true, 0, -1, -1);
      x[static_cast<std::size_t>(69 * n + n - 1)] = std::numeric_limits<float>::quiet_NaN();
      expect_alike(false, 1, 69, n - 1);
      x[static_cast<std::size_t>(40 * n + n / 2)] = -std::numeric_limits<float>::infinity();
      expect_alike(false, 2, 40, n / 2);
      x[static_cast<std::size_t>(7 * n)] = dtype == core::DType::f16 ? 65520.0F : 1.1e12F;
      expect_alike(false, 3, 7, 0);
    }
}

TEST_F(SiteSumTest, SumsCounterpartsAsTheCpuDoes) {
  for (const core::DType dtype : {core::DType::f32, core::DType::bf16})
    for (const std::int64_t n : {1, 33, 100}) {
      const std::int64_t rows = 1100;  // more than are multiplied at a time
      const std::vector<float> x = test::normal_values(rows * n, 5);
      std::vector<float> y = test::normal_values(rows * n, 6);
      y[static_cast<std::size_t>((rows - 1 - 70) * n)] = std::numeric_limits<float>::quiet_NaN();  // of row 70
      std::vector<float> weights;
      for (std::int64_t i = 0; i < rows; ++i) weights.push_back(0.1F * static_cast<float>(i % 7));
      const std::span<const float> counts(weights);
      calib::PairedRows pairs;
      for (std::int64_t i = 0; i < rows; ++i) {
        pairs.row.push_back(static_cast<std::int32_t>(i % 10 == 3 ? -1 : rows - 1 - i));
        pairs.sound.push_back(i != 70);
      }
      const auto sum_of = [&](backend::Context& context, const float* values, const float* counterparts,
                              const std::span<const float>* weights_of_rows) {
        pairs.x = counterparts;
        calib::SiteSum sum(context, n, dtype, true);
        sum.start(false, weights_of_rows);
        sum.add_sound_rows(values, rows, &pairs);
        sum.finish(0);
        EXPECT_EQ(test::left_out_of(sum.tree()), 1);
        return test::mean_of(context, sum.cross(), test::tokens_of(sum.tree()));
      };
      const auto dx = on_gpu(x), dy = on_gpu(y);
      for (const std::span<const float>* weighed : {static_cast<const std::span<const float>*>(nullptr), &counts}) {
        const std::vector<float> expected = sum_of(cpu(), x.data(), y.data(), weighed),
                                 found = sum_of(gpu(), dx.data(), dy.data(), weighed);
        ASSERT_EQ(found.size(), expected.size());
        for (std::size_t i = 0; i < found.size(); ++i) EXPECT_NEAR(found[i], expected[i], 1e-6F) << n << " " << i;
      }
    }
}

}  // namespace
}  // namespace voronoi
