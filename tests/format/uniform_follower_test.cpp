#include "format/uniform_follower.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "core/random.h"
#include "support/encoded_source.h"
#include "support/typed_encoding.h"

namespace voronoi::format {
namespace {

constexpr std::int64_t kOut = 5, kIn = 21, kGroup = 8;

std::vector<float> random_weight(std::uint64_t stream, double spread = 1) {
  const core::CounterRandom random(7, stream);
  std::vector<float> weight(static_cast<std::size_t>(kOut * kIn));
  for (std::size_t i = 0; i < weight.size(); ++i) weight[i] = static_cast<float>(spread * (random.uniform(i) - 0.4));
  return weight;
}

class UniformFollowerTest : public ::testing::TestWithParam<bool> {
 protected:
  Encoding encoding_of(const std::vector<float>& weight, int bits = 2) const {
    return test::uniform_of_weight(bits, kGroup, GetParam(), kOut, kIn, weight);
  }
  std::vector<float> decoded(const Encoding& encoding) const {
    std::vector<float> weight(static_cast<std::size_t>(kOut * kIn));
    decode(encoding, weight);
    return weight;
  }
  backend::Context context_{backend::Device::cpu, 2};
};

TEST_P(UniformFollowerTest, BeginsWhereItIs) {
  const std::vector<float> weight = random_weight(1);
  for (const int bits : {2, 3, 8}) {
    const Encoding encoding = encoding_of(weight, bits);
    UniformFollower follower(context_, encoding);
    EXPECT_EQ(follower.n_parameters(), 0);
    EXPECT_TRUE(follower.initial().empty());
    for (const std::vector<float>& from : {weight, std::vector<float>{}}) {
      follower.follow(context_.pool(), follower.start(context_.pool(), from));
      EXPECT_TRUE(follower.rounded({}) == encoding) << bits;
    }
    // Codes that are not the nearest, as an error feedback leaves them: the weight comes to their cells.
    UniformFollower other(context_, encoding_of(random_weight(2), bits));
    const Encoding present = other.rounded({});
    const FollowedWeight followed = other.start(context_.pool(), weight);
    EXPECT_NE(followed.values, weight);
    other.follow(context_.pool(), followed);
    EXPECT_TRUE(other.rounded({}) == present) << bits;
  }
}

TEST_P(UniformFollowerTest, ColumnsWithScalesAreFollowedBeforeThem) {
  const std::vector<float> weight = random_weight(1);
  UniformEncoding typed = test::uniform_of(encoding_of(weight, 3));
  for (std::int64_t c = 0; c < kIn; ++c)
    typed.column_scale.push_back(core::to_bits16(typed.dtype, 0.3F + 0.17F * static_cast<float>(c)));
  const Encoding encoding = to_encoding(typed);
  std::vector<float> scaled = weight;
  for (std::size_t i = 0; i < scaled.size(); ++i)
    scaled[i] *= core::from_bits16(typed.dtype, typed.column_scale[i % static_cast<std::size_t>(kIn)]);
  UniformFollower follower(context_, encoding);
  for (const std::vector<float>& from : {scaled, std::vector<float>{}}) {
    follower.follow(context_.pool(), follower.start(context_.pool(), from));
    EXPECT_TRUE(follower.rounded({}) == encoding);
  }
  backend::Array<float> device(context_, kOut * kIn);
  follower.decode(context_, nullptr, device.data());
  EXPECT_EQ(device.to_host(), decoded(encoding));
}

TEST_P(UniformFollowerTest, NearestCodesLeaveTheWeightAsItIs) {
  const std::vector<float> weight = random_weight(1);
  UniformFollower follower(context_, encoding_of(weight, 4));
  const FollowedWeight followed = follower.start(context_.pool(), weight);
  std::int64_t n_moved = 0;
  for (std::size_t i = 0; i < weight.size(); ++i) {
    EXPECT_NEAR(followed.values[i], weight[i], 0.05);  // half a step: an end that the zero's rounding took
    n_moved += followed.values[i] != weight[i];
  }
  EXPECT_LT(n_moved, 25);
}

TEST_P(UniformFollowerTest, GridsAndCodesFollowTheExtremes) {
  const std::vector<float> weight = random_weight(1);
  UniformFollower follower(context_, encoding_of(weight));
  FollowedWeight followed = follower.start(context_.pool(), weight);
  for (float& value : followed.values) value *= 2;
  follower.follow(context_.pool(), followed);
  const std::vector<float> found = decoded(follower.rounded({}));
  for (std::int64_t row = 0; row < kOut; ++row)
    for (std::int64_t g = 0; g < 3; ++g) {
      // In the order of the columns as they are stored.
      const auto at = [&](std::int64_t j) {
        return static_cast<std::size_t>(row * kIn + (GetParam() ? kIn - 1 - j : j));
      };
      float low = 0, high = 0;
      const std::int64_t begin = g * kGroup, end = std::min(kIn, begin + kGroup);
      for (std::int64_t j = begin; j < end; ++j)
        low = std::min(low, followed.values[at(j)]), high = std::max(high, followed.values[at(j)]);
      const auto* margins = followed.margins.data() + (row * 3 + g) * 2;
      const float step = (high + margins[1] - low + margins[0]) / 3;
      for (std::int64_t j = begin; j < end; ++j) {
        // An end may be half a step away, where the zero was rounded.
        EXPECT_LE(std::fabs(found[at(j)] - followed.values[at(j)]), 1.01F * step) << row << " " << j;
        const float steps = found[at(j)] / step;
        EXPECT_NEAR(steps, std::round(steps), 5e-3) << row << " " << j;
      }
    }
  // Codes as bytes are all that it is.
  UniformFollower other(context_, encoding_of(random_weight(3)));
  other.set_codes(follower.codes());
  EXPECT_TRUE(other.rounded({}) == follower.rounded({}));
  backend::Array<float> device(context_, kOut * kIn);
  other.decode(context_, nullptr, device.data());
  EXPECT_EQ(device.to_host(), found);
}

TEST_P(UniformFollowerTest, IsOfUniformEncodingsAlone) {
  EXPECT_NE(make_follower(context_, encoding_of(random_weight(1))), nullptr);
}

INSTANTIATE_TEST_SUITE_P(Orders, UniformFollowerTest, ::testing::Values(false, true),
                         [](const auto& order) { return order.param ? "backwards" : "natural"; });

}  // namespace
}  // namespace voronoi::format
