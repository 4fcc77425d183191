// Log-likelihoods have the same bits on any number of ranks, in any batches, however they were interrupted, and are
// those of each sequence alone.
#include "validation/likelihood.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>

#include "core/error.h"
#include "model/transformer.h"
#include "support/generated_source.h"

namespace voronoi::validation {
namespace {

/// Questions of a few contexts, a context alone, equal ones, long and short.
std::vector<ScoredInput> some_inputs() {
  std::mt19937 engine(4);
  const auto draw = [&](int n) {
    std::vector<std::int32_t> ids;
    for (int i = 0; i < n; ++i) ids.push_back(static_cast<std::int32_t>(engine() % 37));
    return ids;
  };
  std::vector<ScoredInput> inputs;
  for (int question = 0; question < 60; ++question) {
    const std::vector<std::int32_t> context = draw(5 + question * 7 % 90);
    for (int choice = 0; choice < 2 + question % 3; ++choice)
      inputs.push_back(scored_input({"r", context, draw(1 + (question + choice) % 11)}, 80, 37));
  }
  inputs.push_back(inputs[3]);
  // One of all tokens is the model's own.
  const std::vector<std::int32_t> context = draw(12);
  for (std::int32_t id = 0; id < 37; ++id) inputs.push_back(scored_input({"r", context, {id}}, 80, 37));
  return inputs;
}

bool equal(const std::vector<Likelihood>& a, const std::vector<Likelihood>& b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(), [](const Likelihood& x, const Likelihood& y) {
    return x.log_likelihood == y.log_likelihood && x.is_greedy == y.is_greedy;
  });
}

class LikelihoodRanks : public ::testing::Test {
 protected:
  std::vector<Likelihood> run(const comm::Communicator& communicator, LikelihoodProgress progress = {}) {
    return likelihoods(source_, context_, communicator, inputs_, core::DType::f32, std::move(progress));
  }

  const comm::Communicator world_ = comm::Communicator::world();
  backend::Context context_{backend::Device::cpu, 2};
  const test::GeneratedSource source_{core::Json::object()};
  const std::vector<ScoredInput> inputs_ = some_inputs();
};

TEST_F(LikelihoodRanks, RanksBatchesAndBreaksChangeNoBit) {
  const std::vector<Likelihood> alone = run(comm::Communicator::alone());
  EXPECT_TRUE(equal(run(world_), alone));
  // Pack by pack; what the root saw after the first round is taken up again.
  Likelihoods kept;
  int n_calls = 0;
  LikelihoodProgress progress;
  progress.batch = 1;
  progress.keep = [&](const Likelihoods& done) {
    if (n_calls++ == 0) kept = done;
  };
  EXPECT_TRUE(equal(run(world_, progress), alone));
  if (world_.rank() == 0) {
    EXPECT_GT(n_calls, world_.size() == 1 ? 1 : 0);
    EXPECT_TRUE(std::any_of(kept.begin(), kept.end(), [](const auto& one) { return one.has_value(); }));
  }
  // Every rank is given the same: a part, then all, which is not computed again.
  LikelihoodProgress given;
  for (std::size_t i = 0; i < alone.size(); ++i)
    given.done.push_back(i % 3 == 0 ? std::nullopt : std::optional(alone[i]));
  EXPECT_TRUE(equal(run(world_, given), alone));
  given.done.assign(alone.size(), Likelihood{-7, true});
  for (const Likelihood& one : run(world_, given)) EXPECT_EQ(one.log_likelihood, -7);
}

TEST_F(LikelihoodRanks, AreThoseOfEachSequenceAlone) {
  const std::vector<Likelihood> result = run(world_);
  model::Transformer transformer(source_, context_);
  std::vector<model::BlockWeights> blocks;
  for (std::int64_t layer = 0; layer < transformer.config().n_layers; ++layer)
    blocks.push_back(transformer.load_block(layer));
  int n_greedy = 0;
  for (std::size_t i = 0; i < inputs_.size(); ++i) {
    const ScoredInput& input = inputs_[i];
    std::vector<std::int32_t> ids = input.ids;
    ids.push_back(input.targets.back());
    model::HiddenStates hidden = transformer.embed(ids, 1, std::ssize(ids));
    for (const model::BlockWeights& block : blocks) transformer.run_block(block, hidden);
    const std::vector<double> nll = transformer.next_token_nll(hidden, ids);
    double sum = 0;
    for (std::size_t t = nll.size() - input.targets.size(); t < nll.size(); ++t) sum -= nll[t];
    ASSERT_EQ(result[i].log_likelihood, sum) << i;
    std::vector<std::int64_t> rows;
    for (std::size_t t = input.ids.size() - input.targets.size(); t < input.ids.size(); ++t)
      rows.push_back(static_cast<std::int64_t>(t));
    const std::vector<float> logits = transformer.logits(hidden, rows);
    const auto vocab = static_cast<std::size_t>(transformer.config().vocab_size);
    bool greedy = true;
    for (std::size_t t = 0; t < rows.size(); ++t) {
      const auto row = logits.begin() + static_cast<std::ptrdiff_t>(t * vocab);
      greedy = greedy && std::max_element(row, row + static_cast<std::ptrdiff_t>(vocab)) - row == input.targets[t];
    }
    EXPECT_EQ(result[i].is_greedy, greedy) << i;
    n_greedy += greedy ? 1 : 0;
  }
  EXPECT_GE(n_greedy, 1);  // or the flag is not tried
}

TEST_F(LikelihoodRanks, WithoutRequestsThereAreNone) {
  EXPECT_TRUE(likelihoods(source_, context_, world_, {}, core::DType::f32, {}).empty());
}

}  // namespace
}  // namespace voronoi::validation
