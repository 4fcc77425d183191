// Hessians of every kind of block: the goldens of the real implementations, and the same bits on any number of ranks.
#include <numeric>
#include <string>
#include <vector>

#include "mpi/calibration_fixture.h"

namespace voronoi::calib {
namespace {

double frobenius(const SiteHessian& hessian) {
  double squares = 0;
  for (std::int64_t i = 0; i < hessian.n; ++i)
    for (std::int64_t j = 0; j <= i; ++j) squares += (i == j ? 1 : 2) * std::pow(entry(hessian, i, j), 2);
  return std::sqrt(squares);
}

void expect_golden(const SiteHessian& hessian, const core::Json& expected) {
  const double bound = 1e-5 * expected.at("fro").get<double>();
  EXPECT_EQ(hessian.n, expected.at("dim").get<std::int64_t>());
  EXPECT_NEAR(frobenius(hessian), expected.at("fro").get<double>(), bound) << hessian.site;
  EXPECT_NEAR(trace(hessian), expected.at("trace").get<double>(), bound) << hessian.site;
  EXPECT_NEAR(entry(hessian, 0, 0), expected.at("h00").get<double>(), bound) << hessian.site;
  EXPECT_NEAR(entry(hessian, 1, 0), expected.at("h01").get<double>(), bound) << hessian.site;
  EXPECT_NEAR(entry(hessian, hessian.n - 1, hessian.n - 1), expected.at("hlast").get<double>(), bound) << hessian.site;
}

TEST_P(TinyRandom, HessiansAreThoseOfTheRealImplementation) {
  const core::Json& golden = golden_.at("hessian_block_0");
  const std::vector<model::SiteSpec> sites = model::block_sites(source_->config(), 0);
  std::int64_t n_checked = 0;
  for (const auto& [name, hessian] : collect(world_, first_sequence())) {
    if (name.front() != '0') continue;
    ++n_checked;
    const auto site = std::find_if(sites.begin(), sites.end(),
                                   [&](const model::SiteSpec& spec) { return spec.name == hessian.site; });
    ASSERT_NE(site, sites.end());
    const core::Json& expected = golden.at(hessian.site);
    EXPECT_EQ(hessian.n_tokens, expected.at("n").get<std::int64_t>());
    EXPECT_EQ(hessian.pooled_tokens > 0, is_starved(*site, hessian.n_tokens)) << hessian.site;
    if (hessian.pooled_tokens == 0) {
      expect_golden(hessian, expected);
      continue;
    }
    EXPECT_EQ(hessian.pooled_tokens, 40 * source_->config().mixture.top_k);
    const bool enters = hessian.site.ends_with("gate_up");
    if (enters && !source_->config().mixture.weighs_input) {
      // Each token is with top_k experts: their pool is the router's input.
      expect_golden(hessian, golden.at("router"));
      continue;
    }
    double sum_trace = 0, sum_h01 = 0, bound = 0;
    for (const model::SiteSpec& other : sites) {
      if (other.expert < 0 || !other.name.ends_with(enters ? "gate_up" : "down") || !golden.contains(other.name))
        continue;
      const core::Json& part = golden.at(other.name);
      const double share = part.at("n").get<double>() / static_cast<double>(hessian.pooled_tokens);
      sum_trace += share * part.at("trace").get<double>();
      sum_h01 += share * part.at("h01").get<double>();
      bound += share * 1e-5 * part.at("fro").get<double>();
    }
    EXPECT_NEAR(trace(hessian), sum_trace, bound);
    EXPECT_NEAR(entry(hessian, 1, 0), sum_h01, bound);
  }
  const std::vector<std::int64_t> counts = world_.all_gather_value(n_checked);
  EXPECT_EQ(std::accumulate(counts.begin(), counts.end(), std::int64_t{0}), static_cast<std::int64_t>(sites.size()));
}

TEST_P(TinyRandom, HessiansHaveTheSameBitsOnAnyNumberOfRanksAndPasses) {
  const auto whole = collect(alone(), many_windows());
  EXPECT_EQ(whole.size(),
            model::block_sites(source_->config(), 0).size() + model::block_sites(source_->config(), 1).size());
  expect_part_of(collect(world_, many_windows()), whole);
  expect_part_of(collect(world_, many_windows(), 1), whole);
  expect_part_of(collect(world_, many_windows(), 100'000), whole);
}

TEST_P(TinyRandom, GuidedHessiansWeighEachRowByTheLossesDerivative) { expect_guided(1); }

TEST_P(TinyRandom, GroupsOfOutputsHaveGuidedHessiansOfTheirOwn) { expect_guided(2); }

TEST_P(TinyRandom, GuidedHessiansHaveTheSameBitsOnAnyNumberOfRanksAndPasses) {
  constexpr std::int64_t kRowGroups = 2;
  const model::Windows windows = many_windows();
  const TokenWeights all = weigh(alone(), windows, {}, kRowGroups);
  std::map<std::int64_t, ChunkWeights> kept;
  TokenWeights::Shelf shelf;
  shelf.keep = [&](const ChunkRange& chunk, const ChunkWeights& made) { kept[chunk.id] = made; };
  const TokenWeights mine = weigh(world_, windows, shelf, kRowGroups);
  Collector::Options options;
  options.held_out_share = 0.25;
  options.token_weights = &all;
  const auto whole = collect(alone(), windows, options);
  bool any = false;
  for (const auto& [name, hessian] : whole) {
    if (hessian.site.find("expert.") != 0) {
      EXPECT_EQ(hessian.held_out_tokens, 3 * windows.context) << name;
    }
    for (const GuidedHessian& guided : hessian.guided) any = any || !guided.held_out.empty();
  }
  EXPECT_TRUE(any);
  options.token_weights = &mine;
  expect_part_of(collect(world_, windows, options), whole);
  options.hessian_bytes = 1;
  expect_part_of(collect(world_, windows, options), whole);
  // Taken from the shelf, nothing is computed.
  shelf.keep = [](const ChunkRange& chunk, const ChunkWeights&) { ADD_FAILURE() << "chunk " << chunk.id << " again"; };
  shelf.take = [&](const ChunkRange& chunk) { return kept.at(chunk.id); };
  const TokenWeights again = weigh(world_, windows, shelf, kRowGroups);
  options.token_weights = &again;
  expect_part_of(collect(world_, windows, options), whole);
}

TEST_P(TinyRandom, HeldOutChunksEnterNoHessianAndHaveTheirOwn) {
  const model::Windows windows = many_windows();
  Collector::Options options;
  options.held_out_share = 0.25;
  const auto apart = collect(alone(), windows, options);
  for (const auto& [name, hessian] : collect(alone(), windows)) {
    if (hessian.pooled_tokens > 0 || apart.at(name).pooled_tokens > 0) continue;
    const SiteHessian& other = apart.at(name);
    ASSERT_EQ(other.n_tokens + other.held_out_tokens, hessian.n_tokens) << name;
    for (std::size_t i = 0; i < hessian.lower.size(); ++i) {
      const double held_out = other.held_out.empty() ? 0 : static_cast<double>(other.held_out[i]);
      const double sum = static_cast<double>(other.n_tokens) * static_cast<double>(other.lower[i]) +
                         static_cast<double>(other.held_out_tokens) * held_out;
      ASSERT_NEAR(
          sum / static_cast<double>(hessian.n_tokens), static_cast<double>(hessian.lower[i]),
          1e-5 * (trace(hessian) / static_cast<double>(hessian.n) + std::fabs(static_cast<double>(hessian.lower[i]))))
          << name;
    }
  }
}

/// The model with another weight in each linear of block 0: what quantizing would make of it.
class Changed final : public model::WeightSource {
 public:
  explicit Changed(const model::WeightSource& original) : original_(original) {}
  const model::ModelConfig& config() const override { return original_.config(); }
  void read(const model::TensorSpec& spec, std::span<float> out) const override {
    original_.read(spec, out);
    if (spec.name.find("layers.0.") == std::string::npos || spec.name.find("_proj.weight") == std::string::npos) return;
    for (std::size_t i = 0; i < out.size(); ++i) out[i] *= 1 + 0.1F * static_cast<float>(i * 7 % 5) - 0.2F;
  }
  std::string fingerprint() const override { return original_.fingerprint(); }
  const std::string& path() const override { return original_.path(); }

 private:
  const model::WeightSource& original_;
};

TEST_P(TinyRandom, CrossMomentsPairBothStreamsAndHaveTheSameBitsOnAnyNumberOfRanksAndPasses) {
  const model::Windows windows = many_windows();
  const Changed changed(*source_);
  model::Transformer quantized(changed, context_);
  const auto collect_both = [&](const comm::Communicator& communicator, const TokenWeights* weights,
                                std::int64_t hessian_bytes) {
    ResidualStream stream(*transformer_, context_, communicator, windows);
    ResidualStream original(*transformer_, context_, communicator, windows);
    Collector::Options options;
    options.hessian_bytes = hessian_bytes;
    options.held_out_share = 0.25;
    options.original = &original;
    options.token_weights = weights;
    options.is_weighed_stream = false;
    Collector collector(*transformer_, context_, communicator, stream, options);
    std::map<std::string, SiteHessian> all;
    for (std::int64_t block = 0; block < 2; ++block) {
      for (SiteHessian& hessian : collector.collect(transformer_->load_block(block), false))
        all.emplace(std::to_string(block) + " " + hessian.site, std::move(hessian));
      if (block == 0) stream.advance(quantized.load_block(block));
    }
    return all;
  };
  const TokenWeights weights = weigh(alone(), windows);
  const auto whole = collect_both(alone(), &weights, kHessianBytes);
  for (const auto& [name, hessian] : whole) {
    const bool is_expert = hessian.site.find("expert.") == 0;
    EXPECT_EQ(hessian.cross.empty(), hessian.pooled_tokens > 0) << name;
    EXPECT_EQ(hessian.held_out_cross.empty(), hessian.held_out.empty()) << name;
    EXPECT_EQ(hessian.guided.empty(), is_expert) << name;
    if (hessian.cross.empty()) continue;
    if (!is_expert) {
      EXPECT_FALSE(hessian.guided.front().cross.empty()) << name;
    }
    // Before the first block was left both streams are one.
    const bool is_nothing = std::all_of(hessian.cross.begin(), hessian.cross.end(), [](float v) { return v == 0; });
    EXPECT_EQ(is_nothing, name.front() == '0') << name;
  }
  // By hand, of a site of the second block.
  model::HiddenStates x = transformer_->embed(windows.ids, windows.count, windows.context);
  model::HiddenStates y{x.n_sequences, x.n_tokens, x.values.clone()};
  quantized.run_block(quantized.load_block(0), x);
  transformer_->run_block(transformer_->load_block(0), y);
  const auto inputs = [&](model::HiddenStates& hidden) {
    std::vector<float> rows;
    transformer_->run_block(
        transformer_->load_block(1), hidden,
        [&](const model::SiteSpec& site, std::size_t, const float* values, std::int64_t n_rows, auto) {
          if (site.name == "o") rows.insert(rows.end(), values, values + n_rows * site.in_features);
        });
    return rows;
  };
  const std::vector<float> changed_rows = inputs(x), original_rows = inputs(y);
  const SiteHessian& o = whole.at("1 o");
  const auto n = static_cast<std::size_t>(o.n);
  std::vector<double> sum(n * n), held_out(n * n);
  for (std::size_t r = 0; r < changed_rows.size() / n; ++r) {
    const auto sequence = static_cast<std::int64_t>(r) / windows.context;  // each is a chunk
    for (std::size_t i = 0; i < n; ++i)
      for (std::size_t j = 0; j < n; ++j)
        (is_held_out(sequence, 0.25) ? held_out : sum)[i * n + j] +=
            static_cast<double>(original_rows[r * n + i] - changed_rows[r * n + i]) *
            static_cast<double>(changed_rows[r * n + j]);
  }
  const auto expect_alike = [&](const std::vector<double>& expected, const std::vector<float>& got,
                                std::int64_t tokens) {
    double squares = 0, difference = 0;
    for (std::size_t i = 0; i < expected.size(); ++i) {
      const double mean = expected[i] / static_cast<double>(tokens);
      squares += mean * mean;
      difference += std::pow(mean - static_cast<double>(got[i]), 2);
    }
    EXPECT_GT(squares, 0);
    EXPECT_LT(std::sqrt(difference / squares), 1e-5);
  };
  expect_alike(sum, o.cross, o.n_tokens);
  expect_alike(held_out, o.held_out_cross, o.held_out_tokens);

  const TokenWeights mine = weigh(world_, windows);
  expect_part_of(collect_both(world_, &mine, kHessianBytes), whole);
  expect_part_of(collect_both(world_, &mine, 1), whole);
}

TEST_P(TinyRandom, AStopAskedForOnOneRankLeavesTheBlockOnAll) {
  const bool last = world_.rank() == world_.size() - 1;
  int looks = 0;
  const auto stop = [&] { return last && ++looks > 2; };
  {
    ResidualStream stream(*transformer_, context_, world_, many_windows(), stop);
    Collector collector(*transformer_, context_, world_, stream);
    EXPECT_THROW(collector.collect(transformer_->load_block(0), true), core::StopRequested);
  }
  looks = 0;
  EXPECT_THROW(
      TokenWeights(*transformer_, context_, world_, many_windows(), {}, stop, [](std::int64_t, std::int64_t) {}),
      core::StopRequested);
  looks = 0;
  ResidualStream stream(*transformer_, context_, world_, many_windows(), stop);
  EXPECT_THROW(stream.advance(transformer_->load_block(0)), core::StopRequested);
  // The threads are free for other work, and nothing of a stop is left between the ranks.
  const auto whole = collect(alone(), many_windows());
  expect_part_of(collect(world_, many_windows()), whole);
}

INSTANTIATE_TEST_SUITE_P(Models, TinyRandom,
                         ::testing::Values("llama2", "mixtral", "qwen2-moe", "qwen3-moe", "gemma", "gemma2", "phi3"));

// A block of each kind that those do not have.
INSTANTIATE_TEST_SUITE_P(MoreModels, TinyRandom,
                         ::testing::Values("cohere2", "gpt-oss", "llama4-scout", "deepseek-v3-noqlora", "qwen3-next"));

/// Of the others one look, at what is summed in one go.
class TinyOther : public TinyRandom {};

TEST_P(TinyOther, PlainAndGuidedHessiansHaveTheSameBitsOnAnyNumberOfRanks) {
  const model::Windows windows = many_windows();
  const TokenWeights all = weigh(alone(), windows), mine = weigh(world_, windows);
  Collector::Options options;
  options.token_weights = &all;
  const auto whole = collect(alone(), windows, options);
  std::size_t n_sites = model::block_sites(source_->config(), 0).size();
  if (source_->config().n_layers > 1) n_sites += model::block_sites(source_->config(), 1).size();
  EXPECT_EQ(whole.size(), n_sites);
  EXPECT_TRUE(std::any_of(whole.begin(), whole.end(), [](const auto& site) { return !site.second.guided.empty(); }));
  options.token_weights = &mine;
  expect_part_of(collect(world_, windows, options), whole);
}

INSTANTIATE_TEST_SUITE_P(OtherModels, TinyOther,
                         ::testing::Values("granite", "olmo2", "llama-dynamic", "phi3-longrope", "phi4-mini", "glm4",
                                           "gemma3", "gemma3-vision", "qwen3-vl", "glm4-moe", "llama4-maverick",
                                           "deepseek-v3", "llama-fp8-block", "llama-fp8-block128", "llama-fp8-channel",
                                           "deepseek-v3-fp8", "gpt-oss-mxfp4"));

}  // namespace
}  // namespace voronoi::calib
