// Gradients by the numbers of packed linears and by norms against autograd through VPTQ's public client (see
// ../shared/data/gradients/README.md).
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <memory>
#include <numeric>
#include <span>
#include <string>
#include <vector>

#include "core/json.h"
#include "export/checkpoint.h"
#include "support/data.h"
#include "support/distance.h"
#include "support/safetensors_lite.h"
#include "tune/tuned_block.h"

namespace voronoi::stages {
namespace {

/// Of the client's checkpoint, by our name of the array.
const std::map<std::string, std::string, std::less<>> kClientNames{{"codebook", ".centroids.weight"},
                                                                   {"residual_codebook", ".res_centroids.weight"},
                                                                   {"outlier_codebook", ".outlier_centroids.weight"},
                                                                   {"scale", ".weight_scale"},
                                                                   {"bias", ".weight_bias"}};

class TunedGradients : public ::testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    VORONOI_NEEDS_DATA(golden() + ".json");
    VORONOI_NEEDS_DATA("models/stories260K/hf/config.json");
    source_ =
        std::make_unique<exporting::Checkpoint>(test::data_path(std::string("models/stories260K-vptq/") + GetParam()));
  }
  void make_student(core::DType dtype) {
    student_ = std::make_unique<model::Transformer>(*source_, context_, dtype);
    for (std::int64_t layer = 0; layer < source_->config().n_layers; ++layer)
      blocks_.push_back(std::make_unique<tune::TunedBlock>(
          context_, *student_, layer, [this](const std::string& linear) { return source_->encoding(linear); }));
  }
  static std::string golden() { return std::string("gradients/stories260K-vptq/") + GetParam(); }

  /// log softmax [n_tokens, vocabulary] of what leaves the last block.
  std::vector<double> log_probabilities(model::Transformer& transformer, const model::HiddenStates& hidden) const {
    std::vector<std::int64_t> rows(static_cast<std::size_t>(hidden.n_tokens));
    std::iota(rows.begin(), rows.end(), 0);
    const std::vector<float> logits = transformer.logits(hidden, rows);
    std::vector<double> result(logits.begin(), logits.end());
    const auto width = static_cast<std::size_t>(transformer.config().vocab_size);
    for (auto row = result.begin(); row != result.end(); row += static_cast<std::ptrdiff_t>(width)) {
      const auto end = row + static_cast<std::ptrdiff_t>(width);
      const double sum = std::accumulate(row, end, 0.0, [](double all, double logit) { return all + std::exp(logit); });
      std::for_each(row, end, [&](double& logit) { logit -= std::log(sum); });
    }
    return result;
  }

  std::vector<double> teacher_log_probabilities(const std::vector<std::int32_t>& ids) {
    const auto source = model::open_model(test::data_path("models/stories260K/hf"));
    model::Transformer teacher(*source, context_, core::DType::f32);
    model::HiddenStates hidden = teacher.embed(ids, 1, std::ssize(ids));
    for (std::int64_t layer = 0; layer < teacher.config().n_layers; ++layer)
      teacher.run_block(teacher.load_block(layer), hidden);
    return log_probabilities(teacher, hidden);
  }

  struct LossGradient {
    double loss = 0;
    std::vector<float> norm, hidden;
  };
  /// The divergence's derivative by the final norm and by what leaves the last block, mean over the positions. By hand:
  /// this teacher has a head of its own, in F32, where the student's is stored in 16 bits; one that tunes shares it.
  LossGradient divergence(const std::vector<std::int32_t>& ids, const model::HiddenStates& hidden) {
    const model::ModelConfig& config = source_->config();
    const auto n = static_cast<std::size_t>(config.hidden_size), n_vocab = static_cast<std::size_t>(config.vocab_size);
    const std::vector<double> student = log_probabilities(*student_, hidden), teacher = teacher_log_probabilities(ids);
    const std::vector<float> x = hidden.values.to_host(), norm = student_->final_norm().to_host();
    std::vector<float> head(n_vocab * n);
    source_->read({"model.embed_tokens.weight", {config.vocab_size, config.hidden_size}}, head);
    const auto n_tokens = static_cast<double>(ids.size());
    LossGradient result;
    std::vector<double> d_norm(n);
    for (std::size_t t = 0; t < ids.size(); ++t) {
      std::vector<double> d_normed(n);
      for (std::size_t v = 0; v < n_vocab; ++v) {
        const double wanted = teacher[t * n_vocab + v], is = student[t * n_vocab + v];
        result.loss += std::exp(wanted) * (wanted - is) / n_tokens;
        const double d_logit = (std::exp(is) - std::exp(wanted)) / n_tokens;
        for (std::size_t i = 0; i < n; ++i) d_normed[i] += d_logit * static_cast<double>(head[v * n + i]);
      }
      const auto value = [&](std::size_t i) { return static_cast<double>(x[t * n + i]); };
      double square = config.norm_eps, along = 0;
      for (std::size_t i = 0; i < n; ++i) square += value(i) * value(i) / static_cast<double>(n);
      const double scale = 1 / std::sqrt(square);
      for (std::size_t i = 0; i < n; ++i) {
        d_norm[i] += d_normed[i] * value(i) * scale;
        d_normed[i] *= static_cast<double>(norm[i]);
        along += d_normed[i] * value(i) * scale / static_cast<double>(n);
      }
      for (std::size_t i = 0; i < n; ++i)
        result.hidden.push_back(static_cast<float>(scale * (d_normed[i] - along * value(i) * scale)));
    }
    result.norm.assign(d_norm.begin(), d_norm.end());
    return result;
  }

  /// All of them by a student whose products take operands of that type; errors in the norm, relative: of each, and
  /// their mean.
  void meet_the_client(core::DType dtype, double loss_tolerance, double tolerance, double mean_tolerance);

  backend::Context context_{backend::Device::cpu, 2};
  std::unique_ptr<exporting::Checkpoint> source_;
  std::unique_ptr<model::Transformer> student_;
  std::vector<std::unique_ptr<tune::TunedBlock>> blocks_;
};

void TunedGradients::meet_the_client(core::DType dtype, double loss_tolerance, double tolerance,
                                     double mean_tolerance) {
  make_student(dtype);
  const core::Json facts = core::read_json_file(test::data_path(golden() + ".json"));
  const auto ids = facts.at("ids").get<std::vector<std::int32_t>>();
  std::vector<backend::Array<float>> parameters;
  std::vector<model::HiddenStates> entered;
  model::HiddenStates hidden = student_->embed(ids, 1, std::ssize(ids));
  for (const auto& block : blocks_) {
    parameters.emplace_back(context_, std::span<const float>(block->initial()));
    entered.push_back({hidden.n_sequences, hidden.n_tokens, hidden.values.clone()});
    student_->run_block(block->assemble(parameters.back().data()), hidden);
  }
  const LossGradient last = divergence(ids, hidden);
  EXPECT_NEAR(last.loss, facts.at("loss").get<double>(), loss_tolerance);
  hidden.values.assign(last.hidden);

  const test::SafetensorsLite expected(test::data_path(golden() + ".safetensors"));
  std::int64_t n_met = 0;
  double worst = 0, all = 0;
  const auto meet = [&](const std::string& tensor, std::span<const float> gradient) {
    const double apart = test::relative_distance(gradient, expected.f32(tensor));
    EXPECT_LT(apart, tolerance) << tensor;
    worst = std::max(worst, apart);
    all += apart;
    ++n_met;
  };
  meet("model.norm.weight", last.norm);
  for (std::size_t i = blocks_.size(); i-- > 0;) {
    tune::TunedBlock& block = *blocks_[i];
    backend::Array<float> sum(context_, block.n_parameters());
    sum.zero();
    block.assemble(parameters[i].data());
    block.backward(*student_, parameters[i].data(), entered[i], hidden, sum.data());
    const std::vector<float> gradient = sum.to_host();
    for (const tune::Segment& segment : block.segments())
      meet(
          segment.array.empty() ? segment.tensor : segment.tensor + kClientNames.find(segment.array)->second,
          std::span(gradient).subspan(static_cast<std::size_t>(segment.first), static_cast<std::size_t>(segment.size)));
  }
  RecordProperty("worst", std::to_string(worst));
  EXPECT_LT(all / static_cast<double>(n_met), mean_tolerance);
  // All but the loss and the linears' own biases, which are not tuned.
  std::int64_t n_wanted = 0;
  for (const std::string& name : expected.names())
    if (name != "loss" && !name.ends_with(".bias")) ++n_wanted;
  EXPECT_EQ(n_met, n_wanted);
}

TEST_P(TunedGradients, AreThoseOfThePublicClient) { meet_the_client(core::DType::f32, 1e-5, 1e-4, 1e-4); }

// Operands have 8 bits of mantissa, and what the student's own loss is made of is a difference of two models' rounded
// predictions; a derivative of which a product is missing is off by 1.
TEST_P(TunedGradients, OfBf16ProductsAreNear) { meet_the_client(core::DType::bf16, 2e-2, 0.4, 0.07); }

INSTANTIATE_TEST_SUITE_P(Variants, TunedGradients,
                         ::testing::Values("v4k256", "v4k256-bf16", "v4k256-16", "v8k16-16", "v6k256", "perm", "group2",
                                           "outlier", "outlier-perm-group2-bf16", "mixed", "bias-shards",
                                           "shared-config"),
                         [](const ::testing::TestParamInfo<const char*>& parameter) {
                           std::string name = parameter.param;
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

}  // namespace
}  // namespace voronoi::stages
