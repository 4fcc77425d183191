// Packed sequences of any lengths: every row is, to the bit, that of its sequence alone.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>
#include <string>
#include <vector>

#include "backend/device.h"
#include "core/error.h"
#include "core/random.h"
#include "model/transformer.h"
#include "support/generated_source.h"

namespace voronoi::model {
namespace {

/// Segments as a tree may have them: sequences without anything in common, ones that continue another after some of its
/// tokens, some of those continued again, neighbours of equal length.
struct Pack {
  std::vector<Segment> segments{{40, -1, 0}, {40, -1, 0},  {1, -1, 0},  {7, 0, 40},  {7, 1, 40},
                                {7, 0, 11},  {300, -1, 0}, {1, 6, 300}, {1, 6, 299}, {33, 3, 46},
                                {5, 9, 60},  {2, 9, 20},   {90, 6, 260}};
  std::vector<std::int32_t> ids;

  explicit Pack(std::int64_t vocab) {
    const core::CounterRandom random(5, 0);
    ids.resize(static_cast<std::size_t>(first_rows(segments).back()));
    for (std::size_t i = 0; i < ids.size(); ++i)
      ids[i] = static_cast<std::int32_t>(random.uniform(i) * static_cast<double>(vocab));
  }
  /// Rows of the whole sequence that ends with a segment.
  std::vector<std::int32_t> rows(std::int64_t segment) const {
    const Segment& s = segments[static_cast<std::size_t>(segment)];
    return rows_of_positions(segments, first_rows(segments), segment, 0, s.n_past + s.n_tokens);
  }
};

class Ragged : public ::testing::TestWithParam<test::Architecture> {};

TEST_P(Ragged, RowsAreThoseOfEverySequenceAlone) {
  for (const core::DType dtype : {core::DType::f32, core::DType::bf16}) {
    backend::Context context(backend::Device::cpu, 2);
    const test::GeneratedSource source(GetParam().changes);
    Transformer transformer(source, context, dtype);
    const ModelConfig& config = transformer.config();
    const Pack pack(config.vocab_size);
    RaggedStates states = transformer.embed(pack.ids, pack.segments);
    for (std::int64_t layer = 0; layer < config.n_layers; ++layer)
      transformer.run_block(transformer.load_block(layer), states);
    for (std::int64_t s = 0; s < std::ssize(pack.segments); ++s) {
      const std::vector<std::int32_t> rows = pack.rows(s);
      std::vector<std::int32_t> ids;
      for (const std::int32_t row : rows) ids.push_back(pack.ids[static_cast<std::size_t>(row)]);
      HiddenStates alone = transformer.embed(ids, 1, std::ssize(ids));
      for (std::int64_t layer = 0; layer < config.n_layers; ++layer)
        transformer.run_block(transformer.load_block(layer), alone);
      const auto width = static_cast<std::size_t>(config.hidden_size);
      for (std::size_t t = 0; t < rows.size(); ++t)
        ASSERT_TRUE(std::ranges::equal(alone.values.span().subspan(t * width, width),
                                       states.values.span().subspan(static_cast<std::size_t>(rows[t]) * width, width)))
            << "segment " << s << ", position " << t;

      // The last row's distribution.
      const std::vector<float> logits = transformer.logits(alone, std::vector<std::int64_t>{std::ssize(ids) - 1});
      const auto greedy = static_cast<std::int32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin());
      const std::int32_t other = (greedy + 1) % static_cast<std::int32_t>(config.vocab_size);
      const std::vector<TokenScore> scores =
          transformer.score(states, std::vector<std::int32_t>{rows.back(), rows.back()}, std::vector{greedy, other});
      double sum = 0;
      for (const float logit : logits) sum += std::exp(static_cast<double>(logit));
      EXPECT_TRUE(scores[0].is_greedy);
      EXPECT_FALSE(scores[1].is_greedy);
      EXPECT_NEAR(scores[0].log_likelihood, logits[static_cast<std::size_t>(greedy)] - std::log(sum), 1e-5);
      EXPECT_NEAR(scores[1].log_likelihood, logits[static_cast<std::size_t>(other)] - std::log(sum), 1e-5);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Architectures, Ragged, ::testing::ValuesIn(test::architectures()),
                         [](const auto& parameter) { return std::string(parameter.param.name); });

TEST(RaggedSegments, WhatIsNoPackIsRefused) {
  backend::Context context(backend::Device::cpu, 1);
  const test::GeneratedSource source(core::Json::object());
  Transformer transformer(source, context);
  const std::vector<std::int32_t> ids{1, 2, 3};
  EXPECT_NO_THROW(transformer.embed(ids, {{2, -1, 0}, {1, 0, 1}}));
  EXPECT_THROW(transformer.embed(ids, {{2, -1, 0}}), core::InternalError);              // not all ids
  EXPECT_THROW(transformer.embed(ids, {{2, -1, 0}, {1, 0, 3}}), core::InternalError);   // after what is not there
  EXPECT_THROW(transformer.embed(ids, {{2, 1, 0}, {1, -1, 0}}), core::InternalError);   // of a later one
  EXPECT_THROW(transformer.embed(ids, {{2, -1, 1}, {1, -1, 0}}), core::InternalError);  // after nothing
  EXPECT_THROW(transformer.embed(std::vector<std::int32_t>{1, 2, 9999}, {{3, -1, 0}}), core::FormatError);
}

}  // namespace
}  // namespace voronoi::model
