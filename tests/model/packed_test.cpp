// Generating straight from packed linears of any format.
#include <gtest/gtest.h>

#include <vector>

#include "model/generator.h"
#include "support/encoded_source.h"
#include "support/toy_format.h"

namespace voronoi::model {
namespace {

using test::EncodedSource;
using test::ToyFormat;

std::vector<std::int32_t> continued(const WeightSource& source, std::size_t n_new) {
  backend::Context context(backend::Device::cpu, 2);
  Generator generator(source, context, std::nullopt, 40);
  std::vector<std::int32_t> ids{3, 14, 15};
  std::vector<float> logits = generator.feed(ids);
  while (n_new-- > 0) {
    ids.push_back(pick_token(logits, 0, 0));
    logits = generator.feed(std::vector<std::int32_t>{ids.back()});
  }
  return ids;
}

test::Encode uniform(int bits, std::int64_t group_size, bool backwards) {
  return [=](std::int64_t out, std::int64_t in, std::span<const float> weight) {
    return test::uniform_of_weight(bits, group_size, backwards, out, in, weight);
  };
}

TEST(PackedModel, UniformCodesContinueATextAsTheirDecodedWeightsDo) {
  for (const bool backwards : {false, true}) {
    const test::Encode encode = uniform(3, 16, backwards);
    const auto ids = continued(EncodedSource(encode, true), 24);
    EXPECT_EQ(ids, continued(EncodedSource(encode, false), 24));
  }
}

TEST(PackedModel, KeepsNothingDecoded) {
  const EncodedSource source(uniform(2, 8, false), true);
  backend::Context context(backend::Device::cpu, 1);
  const Transformer transformer(source, context, std::nullopt, PackedLinears::keep);
  for (const auto& site : transformer.load_block(0).linears)
    for (const LinearWeight& weight : site) {
      ASSERT_TRUE(weight.packed);
      EXPECT_TRUE(weight.wide.empty() && weight.narrow.empty());
      EXPECT_LT(weight.packed->size_bytes(), weight.packed->out_features() * weight.packed->in_features());
    }
}

TEST(PackedModel, AFormatThatTheModelDoesNotKnowIsAskedForItsProducts) {
  const EncodedSource source(ToyFormat::encode, true), decoded(ToyFormat::encode, false);
  ToyFormat::counts() = {};
  const auto ids = continued(source, 12);
  EXPECT_EQ(ids, continued(decoded, 12));
  EXPECT_EQ(ToyFormat::counts().decodings, 0);
  EXPECT_EQ(ToyFormat::counts().products, 13 * 2 * 7);  // steps, blocks, linears
  // More tokens than the format serves are multiplied with the decoded weight.
  backend::Context context(backend::Device::cpu, 1);
  Generator(source, context, std::nullopt, 8).feed(std::vector<std::int32_t>{1, 2, 3, 4, 5});
  EXPECT_EQ(ToyFormat::counts().decodings, 2 * 7);
}

}  // namespace
}  // namespace voronoi::model
