// Which rows of two streams belong together.
#include "calib/paired_inputs.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>

namespace voronoi::calib {
namespace {

using testing::ElementsAre;

/// A block of two experts of one hidden channel; inputs are tokens' numbers, in units of the site.
class PairedInputsTest : public ::testing::Test {
 protected:
  void record(PairedInputs& inputs, std::size_t site, const std::vector<std::int32_t>& tokens, float unit) const {
    std::vector<float> x;
    for (const std::int32_t token : tokens) x.push_back(unit * static_cast<float>(token));
    inputs.record(site, x.data(), std::ssize(x),
                  sites_[site].expert < 0 ? std::span<const std::int32_t>() : std::span(tokens));
  }
  /// The counterparts of rows; -1 where there is none.
  static std::vector<float> values(const PairedRows& rows) {
    std::vector<float> result;
    for (const std::int32_t row : rows.row) result.push_back(row < 0 ? -1 : rows.x[row]);
    return result;
  }

  backend::Context context_{backend::Device::cpu, 1};
  std::vector<model::SiteSpec> sites_{{"qkv", 1, {}},
                                      {"o", 1, {}},
                                      {"expert.0.gate_up", 1, {}, 0},
                                      {"expert.0.down", 1, {}, 0},
                                      {"expert.1.gate_up", 1, {}, 1},
                                      {"expert.1.down", 1, {}, 1}};
};

TEST_F(PairedInputsTest, RowsOfATokenBelongTogether) {
  PairedInputs inputs(context_, sites_, 0, sites_.size(), core::DType::f32);
  for (int chunk = 0; chunk < 2; ++chunk) {
    inputs.start();
    record(inputs, 0, {0, 1, 2}, 1);
    record(inputs, 0, {3, 4}, 1);  // a second batch
    record(inputs, 2, {0, 2, 3}, 10);
    record(inputs, 3, {0, 2, 3}, 100);
    record(inputs, 4, {1, 2, 4}, 10);
    record(inputs, 5, {1, 2, 4}, 200);
    for (int pass = 0; pass < 2; ++pass) {
      inputs.rewind();
      EXPECT_THAT(values(inputs.next(0, 2, {})), ElementsAre(0, 1));
      EXPECT_THAT(values(inputs.next(0, 3, {})), ElementsAre(2, 3, 4));
    }
    const std::vector<std::int32_t> places{0, 1, 2, 4};
    EXPECT_THAT(values(inputs.next(2, 4, places)), ElementsAre(0, 10, 20, 40));  // whoever saw them
    EXPECT_THAT(values(inputs.next(4, 4, places)), ElementsAre(0, 10, 20, 40));
    EXPECT_THAT(values(inputs.next(3, 4, places)), ElementsAre(0, -1, 200, -1));
    EXPECT_THAT(values(inputs.next(5, 4, places)), ElementsAre(-1, 200, 400, 800));
  }
}

TEST_F(PairedInputsTest, KnowsWhatCannotBeUsedAndKeepsThePassAlone) {
  PairedInputs inputs(context_, sites_, 4, 6, core::DType::f32);
  inputs.start();
  record(inputs, 0, {7}, 1);
  record(inputs, 2, {1}, std::numeric_limits<float>::infinity());  // enters the other expert alike
  record(inputs, 4, {3}, 1);
  record(inputs, 5, {3}, 1);
  const std::vector<std::int32_t> places{1, 2, 3};
  const PairedRows rows = inputs.next(4, 3, places);
  EXPECT_THAT(rows.sound, ElementsAre(false, true, true));
  EXPECT_EQ(rows.row[1], -1);
  EXPECT_THAT(values(inputs.next(5, 3, places)), ElementsAre(-1, -1, 3));
  EXPECT_THROW(inputs.next(0, 1, {}), std::out_of_range);
}

}  // namespace
}  // namespace voronoi::calib
