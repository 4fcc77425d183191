// Calibration with activations that cannot be used: such rows enter no Hessian, are counted, and the result is the same
// on any number of ranks.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <functional>
#include <limits>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "calib/collector.h"
#include "model/weights.h"
#include "support/data.h"

namespace voronoi::calib {
namespace {

using testing::HasSubstr;

constexpr std::int64_t kSequences = 13, kTokens = 24;
constexpr std::int32_t kStruck = 7;  // the token whose embedding is changed

/// A model whose values a test may change as they are read.
class Edited final : public model::WeightSource {
 public:
  using Edit = std::function<void(const std::string& name, std::int64_t columns, std::span<float> values)>;
  Edited(const model::WeightSource& original, Edit edit) : original_(original), edit_(std::move(edit)) {}
  const model::ModelConfig& config() const override { return original_.config(); }
  void read(const model::TensorSpec& spec, std::span<float> out) const override {
    original_.read(spec, out);
    edit_(spec.name, spec.shape.back(), out);
  }
  std::string fingerprint() const override { return original_.fingerprint(); }
  const std::string& path() const override { return original_.path(); }

 private:
  const model::WeightSource& original_;
  Edit edit_;
};

/// The struck token's embedding, all of it.
Edited::Edit embedding(float value) {
  return [value](const std::string& name, std::int64_t columns, std::span<float> values) {
    if (name != "model.embed_tokens.weight") return;
    for (float& entry : values.subspan(static_cast<std::size_t>(kStruck * columns), static_cast<std::size_t>(columns)))
      entry = value;
  };
}

class LeftOut : public ::testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    const std::string folder = std::string("models/tiny-random/") + GetParam();
    VORONOI_NEEDS_DATA(folder + "/golden.json");
    original_ = model::open_model(test::data_path(folder));
  }

  void edit(Edited::Edit change, core::DType dtype = core::DType::f32) {
    source_ = std::make_unique<Edited>(*original_, std::move(change));
    transformer_ = std::make_unique<model::Transformer>(*source_, context_, dtype);
  }

  /// Each sequence has the struck token at most once, at its sequence's number; the last has none.
  model::Windows windows() const {
    model::Windows windows{kSequences, kTokens, {}};
    for (std::int64_t s = 0; s < kSequences; ++s)
      for (std::int64_t t = 0; t < kTokens; ++t) {
        auto id = static_cast<std::int32_t>((s * 31 + t * t * 7 + t / 5) % (original_->config().vocab_size - 1));
        if (id >= kStruck) ++id;
        windows.ids.push_back(s + 1 < kSequences && t == s ? kStruck : id);
      }
    return windows;
  }

  struct Result {
    std::map<std::string, SiteHessian> sites;  ///< by "block site"
    std::string first_fault;
  };
  Result collect(const comm::Communicator& communicator, std::int64_t hessian_bytes = kHessianBytes) {
    ResidualStream stream(*transformer_, context_, communicator, windows());
    Collector::Options options;
    options.hessian_bytes = hessian_bytes;
    Collector collector(*transformer_, context_, communicator, stream, options);
    Result result;
    for (std::int64_t block = 0; block < 2; ++block)
      for (SiteHessian& site : collector.collect(transformer_->load_block(block), block == 0))
        result.sites.emplace(std::to_string(block) + " " + site.site, std::move(site));
    result.first_fault = collector.first_fault();
    return result;
  }

  /// This rank alone, then the same of all ranks, in one pass over a block and in many.
  Result collect_every_way() {
    const std::array<int, 1> mine{world_.rank()};
    Result alone = collect(world_.subgroup(mine, 3));
    for (const std::int64_t hessian_bytes : {kHessianBytes, std::int64_t{1}}) {
      const Result shared = collect(world_, hessian_bytes);
      EXPECT_EQ(shared.first_fault, alone.first_fault);
      for (const auto& [name, site] : shared.sites) {
        const SiteHessian& other = alone.sites.at(name);
        EXPECT_EQ(site.n_tokens, other.n_tokens) << name;
        EXPECT_EQ(site.n_left_out, other.n_left_out) << name;
        EXPECT_EQ(site.pooled_tokens, other.pooled_tokens) << name;
        EXPECT_EQ(site.fault, other.fault) << name;
        EXPECT_EQ(site.lower, other.lower) << name;
      }
    }
    for (const auto& [name, site] : alone.sites)
      for (const float value : site.lower) EXPECT_TRUE(std::isfinite(value)) << name;
    return alone;
  }

  bool dense() const { return original_->config().mixture.n_experts == 0; }

  comm::Communicator world_ = comm::Communicator::world();
  backend::Context context_{backend::Device::cpu, 2};
  std::unique_ptr<model::WeightSource> original_;
  std::unique_ptr<Edited> source_;
  std::unique_ptr<model::Transformer> transformer_;
};

TEST_P(LeftOut, RowsThatAreNotNumbersAreCountedAndTheRestIsTheMeanOverTheRest) {
  edit(embedding(std::numeric_limits<float>::quiet_NaN()));
  const Result result = collect_every_way();
  EXPECT_EQ(result.first_fault, "block 0, input 0 of qkv is nan at token 0 of calibration sequence 0");
  const SiteHessian& qkv = result.sites.at("0 qkv");
  EXPECT_EQ(qkv.n_left_out, kSequences - 1);
  EXPECT_EQ(qkv.n_tokens, kSequences * kTokens - (kSequences - 1));
  // Behind attention no row at or after the struck token is a number: token s of sequence s. Rows before it may be lost
  // as well (attention multiplies what it masks by zero), rows of other sequences may not.
  const std::int64_t n_behind = (kSequences - 1) * kTokens - (kSequences - 1) * (kSequences - 2) / 2;
  for (const char* name : {"0 o", "1 o"}) {
    const SiteHessian& site = result.sites.at(name);
    EXPECT_GE(site.n_left_out, n_behind) << name;
    EXPECT_LE(site.n_left_out, (kSequences - 1) * kTokens) << name;
    EXPECT_EQ(site.n_tokens, kSequences * kTokens - site.n_left_out) << name;
  }
  // Plain sums over the good rows.
  const auto n = static_cast<std::size_t>(qkv.n);
  std::vector<double> sum(n * n, 0.0);
  std::int64_t rows_seen = 0;
  const model::Windows ids = windows();
  model::HiddenStates hidden = transformer_->embed(ids.ids, ids.count, ids.context);
  transformer_->run_block(transformer_->load_block(0), hidden,
                          [&](const model::SiteSpec& site, std::size_t, const float* x, std::int64_t n_rows, auto) {
                            if (site.name != "qkv") return;
                            for (std::int64_t r = 0; r < n_rows; ++r) {
                              if (ids.ids[static_cast<std::size_t>(rows_seen++)] == kStruck) continue;
                              const float* row = x + r * qkv.n;
                              for (std::size_t i = 0; i < n; ++i)
                                for (std::size_t j = 0; j < n; ++j)
                                  sum[i * n + j] += static_cast<double>(row[i]) * static_cast<double>(row[j]);
                            }
                          });
  for (std::size_t i = 0, at = 0; i < n; ++i)
    for (std::size_t j = 0; j <= i; ++j, ++at)
      ASSERT_NEAR(static_cast<double>(qkv.lower[at]), sum[i * n + j] / static_cast<double>(qkv.n_tokens),
                  1e-5 * std::sqrt(sum[i * n + i] * sum[j * n + j]) / static_cast<double>(qkv.n_tokens));
}

TEST_P(LeftOut, AHealthyModelLosesNoRow) {
  edit([](const std::string&, std::int64_t, std::span<float>) {});
  const Result result = collect_every_way();
  EXPECT_EQ(result.first_fault, "");
  for (const auto& [name, site] : result.sites) {
    EXPECT_EQ(site.n_left_out, 0) << name;
    EXPECT_EQ(site.fault, "") << name;
  }
}

TEST_P(LeftOut, WithoutAGoodRowASiteSaysWhereItBegan) {
  edit([](const std::string& name, std::int64_t, std::span<float> values) {
    if (name == "model.layers.0.post_attention_layernorm.weight" ||
        name == "model.layers.0.pre_feedforward_layernorm.weight")
      values[2] = std::numeric_limits<float>::infinity();
  });
  const Result result = collect_every_way();
  const char* first_site = dense() ? "gate_up" : "expert.";
  for (const auto& [name, site] : result.sites) {
    if (name == "0 qkv" || name == "0 o") {
      EXPECT_EQ(site.fault, "") << name;
      EXPECT_EQ(site.n_left_out, 0) << name;
      continue;
    }
    EXPECT_THAT(site.fault, HasSubstr("block 0, input 2 of ")) << name;
    EXPECT_THAT(site.fault, HasSubstr(first_site)) << name;
    EXPECT_EQ(site.n_tokens, 0) << name;
    EXPECT_THAT(site.lower, testing::Each(0.0F)) << name;
  }
}

TEST_P(LeftOut, ARowOfEitherStreamThatIsNotANumberIsLeftOutOfBoth) {
  edit([](const std::string&, std::int64_t, std::span<float>) {});
  const Edited struck(*original_, embedding(std::numeric_limits<float>::quiet_NaN()));
  model::Transformer damaged(struck, context_, core::DType::f32);
  const auto collect_both = [&](const comm::Communicator& communicator, bool original_is_damaged) {
    ResidualStream good(*transformer_, context_, communicator, windows()),
        bad(damaged, context_, communicator, windows());
    Collector::Options options;
    options.original = original_is_damaged ? &bad : &good;
    Collector collector(*transformer_, context_, communicator, original_is_damaged ? good : bad, options);
    Result result;
    for (SiteHessian& site : collector.collect(transformer_->load_block(0), false))
      result.sites.emplace(site.site, std::move(site));
    result.first_fault = collector.first_fault();
    return result;
  };
  for (const bool original_is_damaged : {false, true}) {
    const std::array<int, 1> mine{world_.rank()};
    const Result alone = collect_both(world_.subgroup(mine, 3), original_is_damaged);
    const Result shared = collect_both(world_, original_is_damaged);
    EXPECT_EQ(alone.first_fault, std::string("block 0, input 0 of qkv ") +
                                     (original_is_damaged ? "in the unquantized model " : "") +
                                     "is nan at token 0 of calibration sequence 0");
    EXPECT_EQ(shared.first_fault, alone.first_fault);
    EXPECT_EQ(alone.sites.at("qkv").n_left_out, kSequences - 1);
    EXPECT_EQ(alone.sites.at("qkv").n_tokens, kSequences * kTokens - (kSequences - 1));
    for (const auto& [name, site] : shared.sites) {
      const SiteHessian& other = alone.sites.at(name);
      EXPECT_EQ(site.n_left_out, other.n_left_out) << name;
      EXPECT_EQ(site.lower, other.lower) << name;
      EXPECT_EQ(site.cross, other.cross) << name;
    }
    for (const auto& [name, site] : alone.sites) {
      for (const std::vector<float>* values : {&site.lower, &site.cross})
        for (const float value : *values) EXPECT_TRUE(std::isfinite(value)) << name;
    }
    // What is left of qkv is the same rows of the same values.
    for (const float value : alone.sites.at("qkv").cross) EXPECT_EQ(value, 0);
  }
}

INSTANTIATE_TEST_SUITE_P(Models, LeftOut, ::testing::Values("llama2", "mixtral", "qwen2-moe", "phi3"));

class Overflow : public LeftOut {
 protected:
  /// Rows that the first block's qkv leaves out when the struck token's normed input has so large a value.
  std::int64_t left_out(float value, core::DType dtype) {
    // The norm brings the row to length sqrt(hidden): all of it in the first channel, which no other token has.
    const auto hidden = static_cast<float>(original_->config().hidden_size);
    edit(
        [=](const std::string& name, std::int64_t columns, std::span<float> values) {
          if (name == "model.embed_tokens.weight") {
            for (std::size_t i = 0; i < values.size(); i += static_cast<std::size_t>(columns)) values[i] = 0;
            auto row = values.subspan(static_cast<std::size_t>(kStruck * columns), static_cast<std::size_t>(columns));
            std::fill(row.begin(), row.end(), 0.0F);
            row[0] = 1000;
          } else if (name == "model.layers.0.input_layernorm.weight") {
            values[0] = value / std::sqrt(hidden);
          }
        },
        dtype);
    return collect_every_way().sites.at("0 qkv").n_left_out;
  }
};

TEST_P(Overflow, TheTypeOfTheProductsDecidesWhatIsTooLarge) {
  EXPECT_EQ(left_out(65000.0F, core::DType::f16), 0);
  EXPECT_EQ(left_out(66000.0F, core::DType::f16), kSequences - 1);
  for (const core::DType dtype : {core::DType::f32, core::DType::bf16}) {
    EXPECT_EQ(left_out(66000.0F, dtype), 0);
    EXPECT_EQ(left_out(0.95e12F, dtype), 0);
    EXPECT_EQ(left_out(1.05e12F, dtype), kSequences - 1);  // its square is finite
    EXPECT_EQ(left_out(1e25F, dtype), kSequences - 1);     // its square is not
  }
}

INSTANTIATE_TEST_SUITE_P(Models, Overflow, ::testing::Values("llama2"));

}  // namespace
}  // namespace voronoi::calib
