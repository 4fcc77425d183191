// Checkpoints that the public client was seen to load, with the matrices and logits it computes.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "backend/device.h"
#include "core/hash.h"
#include "export/checkpoint.h"
#include "model/transformer.h"
#include "support/data.h"

namespace voronoi::exporting {
namespace {

class Published : public ::testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    VORONOI_NEEDS_DATA(folder() + "/golden.json");
    golden_ = core::read_json_file(test::data_path(folder() + "/golden.json"));
    checkpoint_ = std::make_unique<Checkpoint>(test::data_path(folder()));
  }
  static std::string folder() { return std::string("models/stories260K-vptq/") + GetParam(); }

  core::Json golden_;
  std::unique_ptr<Checkpoint> checkpoint_;
};

TEST_P(Published, EveryMatrixIsTheClientsBitForBit) {
  ASSERT_EQ(checkpoint_->linears().size(), 35U);
  ASSERT_EQ(golden_.at("layers").size(), 35U);
  for (const auto& [name, layer] : golden_.at("layers").items()) {
    const format::Encoding encoding = checkpoint_->encoding(name);
    const auto shape = layer.at("shape").get<core::Shape>();
    ASSERT_EQ((core::Shape{encoding.out_features, encoding.in_features}), shape) << name;
    std::vector<float> weight(static_cast<std::size_t>(shape[0] * shape[1])), read(weight.size());
    format::decode(encoding, weight);
    EXPECT_EQ(core::sha256(std::as_bytes(std::span(weight))), layer.at("sha256").get<std::string>()) << name;
    checkpoint_->read({name + ".weight", shape}, read);
    EXPECT_EQ(read, weight) << name;
  }
}

TEST_P(Published, LogitsAreTheClients) {
  backend::Context context(backend::Device::cpu, 2);
  model::Transformer transformer(*checkpoint_, context);
  const auto ids = golden_.at("ids").get<std::vector<std::int32_t>>();
  model::HiddenStates hidden = transformer.embed(ids, 1, static_cast<std::int64_t>(ids.size()));
  for (std::int64_t block = 0; block < transformer.config().n_layers; ++block)
    transformer.run_block(transformer.load_block(block), hidden);
  std::vector<std::int64_t> rows;
  for (std::size_t i = 0; i < ids.size(); ++i) rows.push_back(static_cast<std::int64_t>(i));
  const std::vector<float> logits = transformer.logits(hidden, rows);
  const auto width = static_cast<std::size_t>(transformer.config().vocab_size);
  const core::Json& expected = golden_.at("logits");
  ASSERT_EQ(expected.size(), 8U);
  for (std::size_t row = 0; row < expected.size(); ++row)
    for (std::size_t i = 0; i < width; ++i)
      ASSERT_NEAR(logits[row * width + i], expected[row][i].get<double>(), 1e-4) << row << ", " << i;
  for (std::size_t row = 0; row < ids.size(); ++row) {
    const auto begin = logits.begin() + static_cast<std::ptrdiff_t>(row * width);
    EXPECT_EQ(std::max_element(begin, begin + static_cast<std::ptrdiff_t>(width)) - begin,
              golden_.at("argmax")[row].get<std::ptrdiff_t>())
        << row;
  }
  double nll = 0;
  const std::vector<double> each = transformer.next_token_nll(hidden, ids);
  for (const double value : each) nll += value / static_cast<double>(each.size());
  EXPECT_NEAR(nll, golden_.at("nll_of_ids").get<double>(), 1e-5);
}

INSTANTIATE_TEST_SUITE_P(Stories260K, Published,
                         ::testing::Values("v4k256", "v4k256-bf16", "v4k256-16", "v8k16-16", "v6k256", "perm", "group2",
                                           "outlier", "outlier-perm-group2-bf16", "mixed", "bias-shards",
                                           "shared-config"),
                         [](const auto& variant) {
                           std::string name = variant.param;
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

TEST(Checkpoint, BitsCountWhatIsStored) {
  VORONOI_NEEDS_DATA("models/stories260K-vptq/v4k256/config.json");
  const Checkpoint checkpoint(test::data_path("models/stories260K-vptq/v4k256"));
  EXPECT_EQ(checkpoint.nominal_bits(), 2);
  double bits = 0, weights = 0;
  for (const std::string& name : checkpoint.linears()) {
    const format::Encoding e = checkpoint.encoding(name);
    bits += static_cast<double>(format::stored_bits(e));
    weights += static_cast<double>(e.out_features * e.in_features);
  }
  EXPECT_DOUBLE_EQ(checkpoint.true_bits(), bits / weights);
}

}  // namespace
}  // namespace voronoi::exporting
