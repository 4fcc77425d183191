// The backward pass against autograd through the real implementations (see ../shared/data/gradients/README.md).
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "core/json.h"
#include "model/fused_experts.h"
#include "model/gradients.h"
#include "support/data.h"
#include "support/distance.h"
#include "support/safetensors_lite.h"
#include "support/tiny_models.h"

namespace voronoi::model {
namespace {

using test::DifferentiableModel, test::ModelGradients, test::relative_distance, test::SafetensorsLite,
    test::WeightedMoment;

core::Json read_json(const std::string& relative) {
  std::ifstream stream(test::data_path(relative));
  return core::Json::parse(stream);
}

constexpr double kTolerance = 1e-4;

/// A tensor or module as the checkpoint calls it.
std::string stored_name(const ModelConfig& config, const std::string& name) {
  if (config.wrapper == "gemma3") return "language_model." + name;
  if (config.wrapper == "qwen3_vl" && name.starts_with("model.")) return "model.language_model." + name.substr(6);
  return name;
}

/// Of all experts in one tensor, the values of one's: nothing, where the tensor is of another kind.
std::vector<float> expert_values(const ModelConfig& config, const TensorSpec& spec, const SafetensorsLite& file) {
  const auto slices = expert_slices(config, [](const auto&, const auto&) { return true; });
  const auto slice = slices.find(spec.name);
  if (slice == slices.end()) return {};
  const std::vector<float> all = file.f32(slice->second.stored);
  const ExpertSlice& from = slice->second;
  const std::int64_t columns = from.shape.back(), n_out = spec.shape.front(),
                     n_in = spec.shape.size() > 1 ? spec.shape.back() : 1;
  std::vector<float> values;
  for (std::int64_t out = 0; out < n_out; ++out)
    for (std::int64_t in = 0; in < n_in; ++in)
      values.push_back(all.at(
          static_cast<std::size_t>((from.expert * n_in + in) * columns + from.first_column + out * from.column_step)));
  return values;
}

/// Every parameter of the configuration has its gradient, as the file says; experts without a token have none.
void expect_gradients(const ModelGradients& gradients, const ModelConfig& config, const SafetensorsLite& expected) {
  std::size_t n_found = 0;
  for (const TensorSpec& spec : expected_tensors(config)) {
    if (!config.mixture.choice_bias.empty() && spec.name.ends_with(config.mixture.choice_bias)) continue;
    std::vector<float> values = expert_values(config, spec, expected);
    if (values.empty()) values = expected.f32(stored_name(config, spec.name));
    const auto found = gradients.by.find(spec.name);
    if (found == gradients.by.end()) {
      EXPECT_TRUE(spec.name.find(".experts.") != std::string::npos &&
                  std::ranges::all_of(values, [](float value) { return value == 0; }))
          << spec.name;
      continue;
    }
    ++n_found;
    EXPECT_LT(relative_distance(found->second, values), kTolerance) << spec.name;
  }
  EXPECT_EQ(gradients.by.size(), n_found);
}

class GoldenGradients : public ::testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    file_ = test::tiny_folder(GetParam(), "gradients");
    VORONOI_NEEDS_DATA(file_ + ".json");
    golden_ = read_json(file_ + ".json");
    source_ = open_model(test::data_path(test::tiny_folder(GetParam())));
  }

  std::string file_;
  core::Json golden_;
  std::unique_ptr<WeightSource> source_;
};

TEST_P(GoldenGradients, AreThoseOfTheRealImplementation) {
  DifferentiableModel model(*source_, 2);
  const std::vector<std::int32_t> ids = golden_.at("ids");
  const ModelGradients gradients = model.gradients(ids, 1, 1.0F / 39);
  ASSERT_EQ(gradients.loss.size(), 39U);
  EXPECT_NEAR(gradients.loss_sum() / 39, golden_.at("loss").get<double>(), 1e-5);

  const SafetensorsLite expected(test::data_path(file_ + ".safetensors"));
  expect_gradients(gradients, source_->config(), expected);
  for (std::size_t i = 0; i < gradients.input.size(); ++i)
    EXPECT_LT(relative_distance(gradients.input[i], expected.f32("input_gradient." + std::to_string(i))), kTolerance)
        << i;

  // Routers and gates, of shared experts and of the delta rule, are no linears here.
  std::size_t n_others = 0, n_fused = 0;
  // As its README says of what the real implementation gives in fp32.
  const double bound = std::string(GetParam()) == "qwen3-next" ? 3e-5 : 1e-5;
  const ModelConfig& config = source_->config();
  std::map<std::string, const WeightedMoment*> moments;
  for (const auto& [name, moment] : gradients.moments) {
    const bool fused = config.mixture.storage != ExpertStorage::linears && name.find(".experts.") != std::string::npos;
    n_fused += fused ? 1 : 0;
    moments[stored_name(config, name)] = &moment;
  }
  for (const auto& [name, figures] : golden_.at("weighted_moments").items()) {
    if (name.ends_with("mlp.gate") || name.ends_with("moe.gate") || name.ends_with("shared_expert_gate") ||
        name.ends_with("in_proj_ba")) {
      ++n_others;
      continue;
    }
    const auto found = moments.find(name);
    ASSERT_TRUE(found != moments.end()) << name;
    const WeightedMoment& moment = *found->second;
    EXPECT_EQ(moment.n_rows, figures.at("n").get<std::int64_t>()) << name;
    EXPECT_EQ(moment.dim, figures.at("dim").get<std::int64_t>()) << name;
    EXPECT_EQ(moment.n_outputs, figures.at("outputs").get<std::int64_t>()) << name;
    const double sum_s = figures.at("sum_s"), fro = figures.at("fro");
    EXPECT_NEAR(moment.sum_s, sum_s, bound * sum_s) << name;
    const auto dim = static_cast<std::size_t>(moment.dim);
    double trace = 0, squares = 0;
    for (std::size_t i = 0; i < dim; ++i) trace += moment.sum[i * dim + i] / moment.sum_s;
    for (const double value : moment.sum) squares += std::pow(value / moment.sum_s, 2);
    EXPECT_NEAR(trace, figures.at("trace").get<double>(), bound * fro) << name;
    EXPECT_NEAR(std::sqrt(squares), fro, bound * fro) << name;
    EXPECT_NEAR(moment.sum[0] / moment.sum_s, figures.at("h00").get<double>(), bound * fro) << name;
    EXPECT_NEAR(moment.sum[1] / moment.sum_s, figures.at("h01").get<double>(), bound * fro) << name;
    EXPECT_NEAR(moment.sum.back() / moment.sum_s, figures.at("hlast").get<double>(), bound * fro) << name;
  }
  EXPECT_EQ(gradients.moments.size() - n_fused + n_others, golden_.at("weighted_moments").size());
}

INSTANTIATE_TEST_SUITE_P(Architectures, GoldenGradients,
                         ::testing::Values("llama2", "llama3", "llama-bias-headdim", "llama-tied", "mistral",
                                           "mistral-window", "qwen2", "qwen2-yarn", "qwen2-window", "qwen3", "mixtral",
                                           "qwen2-moe", "qwen3-moe", "gemma", "gemma2", "phi3"),
                         test::tiny_test_name);
INSTANTIATE_TEST_SUITE_P(MoreArchitectures, GoldenGradients, ::testing::ValuesIn(test::more_models()),
                         test::tiny_test_name);

/// A model whose linears are rounded to eighths.
class RoundedSource : public WeightSource {
 public:
  explicit RoundedSource(const WeightSource& source) : source_(source) {
    for (const LinearSpec& linear : block_linears(source.config())) linears_.insert(linear.name + ".weight");
  }
  const ModelConfig& config() const override { return source_.config(); }
  void read(const TensorSpec& spec, std::span<float> out) const override {
    source_.read(spec, out);
    if (linears_.contains(spec.name))
      for (float& value : out) value = std::nearbyint(value * 8) / 8;
  }
  std::string fingerprint() const override { return {}; }
  const std::string& path() const override { return source_.path(); }

 private:
  const WeightSource& source_;
  std::set<std::string> linears_;
};

using GoldenDivergence = GoldenGradients;

TEST_P(GoldenDivergence, IsThatOfTheRealImplementation) {
  const RoundedSource rounded(*source_);
  DifferentiableModel teacher(*source_, 2), student(rounded, 2);
  const std::vector<std::int32_t> ids = golden_.at("ids");
  const std::vector<HiddenStates> teacher_states = teacher.streams(ids, 1);
  const ModelGradients gradients = student.gradients(ids, 1, 1.0F / 40, &teacher_states.back());
  ASSERT_EQ(gradients.loss.size(), 40U);
  EXPECT_NEAR(gradients.loss_sum() / 40, golden_.at("kl").at("loss").get<double>(), 1e-5);
  expect_gradients(gradients, source_->config(), SafetensorsLite(test::data_path(file_ + ".kl.safetensors")));
}

INSTANTIATE_TEST_SUITE_P(Architectures, GoldenDivergence,
                         ::testing::Values("llama3", "qwen2", "qwen3", "mixtral", "gemma2", "phi3"),
                         test::tiny_test_name);

}  // namespace
}  // namespace voronoi::model
