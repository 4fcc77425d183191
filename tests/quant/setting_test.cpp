#include "quant/vq/setting.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <vector>

#include "quant/method.h"
#include "quant/vq/vector_parameters.h"
#include "quant/vq/voronoi.h"

namespace voronoi::quant {
namespace {

/// Linears of a block of a Llama-like model.
std::vector<LayerCount> block(std::int64_t hidden, std::int64_t inner, std::int64_t kv) {
  return {{hidden, hidden, 2}, {kv, hidden, 2}, {inner, hidden, 2}, {hidden, inner, 1}};
}

bool one_of(std::int64_t value, std::initializer_list<std::int64_t> list) {
  return std::find(list.begin(), list.end(), value) != list.end();
}

TEST(Setting, KeepsToTheWantedBitsAndTheFormat) {
  QuantParameters base;
  base.method = "voronoi";
  base.get<VoronoiParameters>().rounds = 2;
  base.get<VectorParameters>().groups = 8;
  for (const auto& layers : {block(576, 1536, 192), block(2048, 8192, 512), block(4096, 14336, 1024),
                             block(8192, 28672, 1024), block(16384, 53248, 1024)}) {
    double last_gain = 0;
    for (const double wanted : {1.5, 2.0, 2.3, 3.0, 4.0}) {
      const auto chosen = choose_vector_setting(base, wanted, layers);
      ASSERT_TRUE(chosen.has_value()) << wanted;
      EXPECT_LE(true_bits(*chosen, layers), wanted * (1 + kBitsMargin));
      EXPECT_GE(true_bits(*chosen, layers), 0.93 * wanted);
      EXPECT_TRUE(check_parameters(*chosen).empty());
      EXPECT_TRUE(one_of(chosen->get<VectorParameters>().vector_length, {4, 6, 8, 12, 16}));
      EXPECT_TRUE(one_of(chosen->get<VectorParameters>().centroids, {256, 4096, 8192, 16384, 32768, 65536}));
      EXPECT_NE(chosen->get<VectorParameters>().residual_centroids, 2);
      EXPECT_LE(chosen->get<VectorParameters>().residual_centroids, chosen->get<VectorParameters>().centroids);
      EXPECT_TRUE(chosen->get<VectorParameters>().residual_centroids <= 4096 ||
                  chosen->get<VectorParameters>().residual_centroids == 65536);
      EXPECT_EQ(chosen->get<VectorParameters>().groups, 1);
      EXPECT_EQ(chosen->get<VectorParameters>().outlier_percent, 0);
      EXPECT_EQ(chosen->get<VoronoiParameters>().rounds, 2);
      const double gain =
          expected_gain_db(chosen->get<VectorParameters>().vector_length, chosen->get<VectorParameters>().centroids,
                           chosen->get<VectorParameters>().residual_centroids);
      EXPECT_GT(gain, last_gain);
      last_gain = gain;
    }
  }
}

TEST(Setting, LargerModelsGetLargerCodebooks) {
  const QuantParameters base;
  const auto small = choose_vector_setting(base, 2, block(576, 1536, 192)),
             large = choose_vector_setting(base, 2, block(16384, 53248, 1024));
  ASSERT_TRUE(small && large);
  EXPECT_GT(large->get<VectorParameters>().centroids, small->get<VectorParameters>().centroids);
  EXPECT_GT(expected_gain_db(large->get<VectorParameters>().vector_length, large->get<VectorParameters>().centroids,
                             large->get<VectorParameters>().residual_centroids),
            expected_gain_db(small->get<VectorParameters>().vector_length, small->get<VectorParameters>().centroids,
                             small->get<VectorParameters>().residual_centroids));
}

TEST(Setting, NothingFitsBelowTheLeastTrueBits) {
  const QuantParameters base;
  const auto layers = block(576, 1536, 192);
  const auto least = least_vector_bits(base, layers);
  ASSERT_TRUE(least.has_value());
  EXPECT_FALSE(choose_vector_setting(base, 0.9 * *least, layers).has_value());
  EXPECT_TRUE(choose_vector_setting(base, *least, layers).has_value());
  // Layers with fewer vectors than the smallest codebook has entries.
  const std::vector<LayerCount> tiny{{8, 8, 1}};
  EXPECT_FALSE(least_vector_bits(base, tiny).has_value());
}

TEST(Setting, BitsAreDividedByAllThatTheyChooseAmong) {
  QuantParameters base;
  base.damping = 0.07;
  const auto layers = block(576, 1536, 192);
  for (const char* name :
       {"vptq", "voronoi", "gptq", "bitdistiller", "rtn", "awq", "gptvq", "quip_sharp", "trellis", "aqlm"}) {
    base.method = name;
    const Method& method = find_method(name);
    const std::vector<QuantParameters> all = method.settings(base, layers);
    const auto bits = [&](const QuantParameters& setting) { return true_bits(setting, layers); };
    double least = 100;
    for (const QuantParameters& setting : all) {
      EXPECT_TRUE(check_parameters(setting).empty());
      EXPECT_EQ(setting.damping, 0.07);
      least = std::min(least, bits(setting));
    }
    EXPECT_EQ(method.least_true_bits(base, layers), least) << name;
    // What is chosen alone is the one of the least error that fits.
    for (const double wanted : {2.5, 3.4}) {
      const auto chosen = method.choose_setting(base, wanted, layers);
      ASSERT_TRUE(chosen) << name;
      for (const QuantParameters& setting : all)
        EXPECT_TRUE(bits(setting) > wanted * (1 + kBitsMargin) ||
                    method.expected_error(setting) >= method.expected_error(*chosen))
            << name << " " << method.setting(setting);
    }
    EXPECT_FALSE(method.choose_setting(base, 0.9 * least, layers));
    const QuantParameters quick = method.quick_setting(base);
    EXPECT_EQ(quick.damping, 0.07);
    EXPECT_LE(operator_work(quick, 256, 576).total().flops(), operator_work(base, 256, 576).total().flops()) << name;
  }
  base.method = "gptq";
  EXPECT_EQ(find_method("gptq").settings(base, layers).size(), 7U);
}

TEST(Setting, ExpectedGainGrowsWithEveryBit) {
  for (const std::int64_t v : {4, 6, 8, 12, 16}) {
    double last = 0;
    for (const int bits : {8, 12, 13, 14, 15, 16}) {
      const double gain = expected_gain_db(v, std::int64_t{1} << bits, 0);
      EXPECT_GT(gain, last);
      EXPECT_LT(gain, 6.0206 * bits / static_cast<double>(v));  // the bound
      last = gain;
      double with_residual = gain;
      for (const int more : {2, 3, 4, 5, 6, 7, 8}) {
        const double now = expected_gain_db(v, std::int64_t{1} << bits, std::int64_t{1} << more);
        EXPECT_GT(now, with_residual);
        with_residual = now;
      }
    }
  }
  // Index bits alike, the single large codebook is better than two small ones.
  EXPECT_GT(expected_gain_db(8, 65536, 0), expected_gain_db(8, 256, 256));
}

}  // namespace
}  // namespace voronoi::quant
