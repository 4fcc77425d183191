// Hessians of experts: those that few tokens reach, and those that see all.
#include <map>
#include <span>
#include <string>
#include <vector>

#include "mpi/calibration_fixture.h"

namespace voronoi::calib {
namespace {

class TinyMixture : public TinyRandom {};

TEST_P(TinyMixture, StarvedExpertsTakeThePoolOnAnyNumberOfRanks) {
  const model::MixtureConfig& mixture = source_->config().mixture;
  const auto whole = collect(alone(), first_sequence(2));
  std::size_t n_without_tokens = 0;
  for (const auto& [name, hessian] : whole) {
    if (hessian.site.find("expert.") != 0) {
      EXPECT_EQ(hessian.pooled_tokens, 0) << name;
      EXPECT_EQ(hessian.n_tokens, 2) << name;
      continue;
    }
    EXPECT_EQ(hessian.pooled_tokens, 2 * mixture.top_k) << name;
    EXPECT_GT(trace(hessian), 0) << name;
    if (hessian.n_tokens == 0) ++n_without_tokens;
    const std::string first = name.substr(0, 2) + "expert.0" + name.substr(name.rfind('.'));
    EXPECT_EQ(hessian.lower, whole.at(first).lower) << "one pool a layer and place";
  }
  EXPECT_GT(n_without_tokens, 0U);
  expect_part_of(collect(world_, first_sequence(2)), whole);
}

/// What observers of block 0 see of experts, by site and row of the hidden states, and what leaves the block.
struct SeenRows {
  std::map<std::string, std::map<std::int32_t, std::vector<float>>> rows;
  std::vector<float> out;
};

TEST_P(TinyMixture, AllExpertsAreSeenForEveryRowAndTheBlockGivesWhatItGave) {
  const model::Windows windows = first_sequence();
  const auto see = [&](bool all) {
    SeenRows seen;
    transformer_->observe_all_experts(all);
    model::HiddenStates hidden = transformer_->embed(windows.ids, windows.count, windows.context);
    transformer_->run_block(transformer_->load_block(0), hidden,
                            [&](const model::SiteSpec& site, std::size_t, const float* x, std::int64_t n_rows,
                                std::span<const std::int32_t> places) {
                              if (site.expert < 0) return;
                              ASSERT_EQ(static_cast<std::int64_t>(places.size()), n_rows);
                              for (std::int64_t i = 0; i < n_rows; ++i)
                                seen.rows[site.name][places[static_cast<std::size_t>(i)]].assign(
                                    x + i * site.in_features, x + (i + 1) * site.in_features);
                            });
    transformer_->observe_all_experts(false);
    seen.out = hidden.values.to_host();
    return seen;
  };
  const SeenRows routed = see(false), all = see(true);
  EXPECT_EQ(all.out, routed.out);
  EXPECT_EQ(static_cast<std::int64_t>(all.rows.size()), 2 * source_->config().mixture.n_experts);
  for (const auto& [site, rows] : all.rows) EXPECT_EQ(static_cast<std::int64_t>(rows.size()), windows.context) << site;
  ASSERT_FALSE(routed.rows.empty());
  for (const auto& [site, rows] : routed.rows)
    for (const auto& [place, x] : rows) EXPECT_EQ(all.rows.at(site).at(place), x) << site << ", row " << place;
}

TEST_P(TinyMixture, AllExpertsHaveHessiansOfAllRowsOnAnyNumberOfRanks) {
  Collector::Options options;
  options.all_experts = true;
  const model::Windows windows = many_windows();
  const auto whole = collect(alone(), windows, options);
  const auto routed = collect(alone(), windows);
  for (const auto& [name, hessian] : whole) {
    EXPECT_EQ(hessian.n_tokens, windows.count * windows.context) << name;
    EXPECT_EQ(hessian.pooled_tokens, 0) << name;
    if (hessian.site.find("expert.") != 0) {
      EXPECT_EQ(hessian.lower, routed.at(name).lower) << name << ": the stream is another one";
    } else if (hessian.site.ends_with("gate_up")) {
      const std::string first = name.substr(0, 2) + "expert.0.gate_up";
      EXPECT_EQ(hessian.lower, whole.at(first).lower) << "all see the same";
    } else {
      EXPECT_GT(trace(hessian), 0) << name;
    }
  }
  expect_part_of(collect(world_, windows, options), whole);
  // Nothing says what a row counts that the router did not give to an expert.
  const TokenWeights weights = weigh(alone(), windows);
  options.token_weights = &weights;
  for (const auto& [name, hessian] : collect(alone(), windows, options)) {
    EXPECT_EQ(hessian.guided.empty(), hessian.site.find("expert.") == 0) << name;
    EXPECT_EQ(hessian.lower, whole.at(name).lower) << name;
  }
}

INSTANTIATE_TEST_SUITE_P(Models, TinyMixture, ::testing::Values("mixtral", "qwen2-moe", "qwen3-moe"));

}  // namespace
}  // namespace voronoi::calib
