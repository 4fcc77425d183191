// A text continued straight from packed linears is that of the CPU with the decoded ones.
#include "model/generator.h"

#include <gtest/gtest.h>

#include <vector>

#include "gpu/gpu_fixture.h"
#include "support/encoded_source.h"

namespace voronoi::model {
namespace {

class GpuGenerator : public test::GpuTest {
 protected:
  static std::vector<std::int32_t> continued(const WeightSource& source, backend::Context& context) {
    Generator generator(source, context, core::DType::f32, 24);
    std::vector<std::int32_t> ids{3, 14, 15};
    std::vector<float> logits = generator.feed(ids);
    for (int i = 0; i < 12; ++i) {
      ids.push_back(pick_token(logits, 0, 0));
      logits = generator.feed(std::vector<std::int32_t>{ids.back()});
    }
    return ids;
  }
};

TEST_F(GpuGenerator, UniformCodesContinueATextAsOnTheHost) {
  for (const bool backwards : {false, true}) {
    const test::Encode encode = [backwards](std::int64_t out, std::int64_t in, std::span<const float> weight) {
      return test::uniform_of_weight(3, 16, backwards, out, in, weight);
    };
    const test::EncodedSource packed(encode, true), decoded(encode, false);
    EXPECT_EQ(continued(packed, gpu()), continued(decoded, cpu()));
  }
}

}  // namespace
}  // namespace voronoi::model
