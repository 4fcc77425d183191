// The backward pass of generated models: against differences of the loss, over threads, batches and pieces.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <map>
#include <random>
#include <string>
#include <vector>

#include "core/json.h"
#include "model/gradients.h"
#include "support/generated_source.h"

namespace voronoi::model {
namespace {

using backend::Array;
using test::Architecture, test::DifferentiableModel, test::GeneratedSource, test::ModelGradients, test::architectures;

std::vector<std::int32_t> some_ids(std::int32_t n, std::int32_t vocab) {
  std::vector<std::int32_t> ids;
  for (std::int32_t i = 0; i < n; ++i) ids.push_back((i * i * 7 + i) % 509 % vocab);
  return ids;
}

/// The loss along a direction in which every tensor's gradient has a large part, by four points; the step is small
/// enough for no token to change its experts, and large enough for fp32 not to be seen.
void expect_difference(GeneratedSource& source, const std::string& name, const std::vector<double>& gradient,
                       const std::function<double()>& loss) {
  std::mt19937 engine(3);
  std::normal_distribution<double> normal;
  std::vector<double> direction(gradient.size());
  double norm = 0, random_norm = 0, along = 0;
  for (std::size_t i = 0; i < gradient.size(); ++i) {
    direction[i] = normal(engine);
    norm += gradient[i] * gradient[i];
    random_norm += direction[i] * direction[i];
  }
  norm = std::sqrt(norm);
  ASSERT_GT(norm, 1e-4) << name;
  for (std::size_t i = 0; i < gradient.size(); ++i) {
    direction[i] = direction[i] / std::sqrt(random_norm) + gradient[i] / norm;
    along += direction[i] * gradient[i];
  }
  std::vector<float>& values = source.tensors.at(name);
  const std::vector<float> kept = values;
  constexpr double kStep = 0.001;
  const auto moved = [&](double by) {
    for (std::size_t i = 0; i < values.size(); ++i)
      values[i] = static_cast<float>(static_cast<double>(kept[i]) + by * direction[i]);
    const double result = loss();
    values = kept;
    return result;
  };
  const double slope = (8 * (moved(kStep) - moved(-kStep)) - (moved(2 * kStep) - moved(-2 * kStep))) / (12 * kStep);
  EXPECT_NEAR(along, slope, 3e-3 * norm) << name;
}

class GeneratedGradients : public ::testing::TestWithParam<Architecture> {};

TEST_P(GeneratedGradients, AreThoseOfDifferences) {
  GeneratedSource source(GetParam().changes);
  const std::vector<std::int32_t> ids = some_ids(18, 37);
  const auto run = [&](bool distilled, const std::vector<std::string>& names) {
    GeneratedSource other(GetParam().changes);
    for (float& value : other.tensors.at("model.embed_tokens.weight")) value *= 0.9F;
    DifferentiableModel teacher(other, 1);
    const std::vector<HiddenStates> teacher_states = teacher.streams(ids, 2);
    const HiddenStates* target = distilled ? &teacher_states.back() : nullptr;
    // A teacher of another embedding, but one head: divergence() takes both through the student's own.
    const auto loss = [&] {
      DifferentiableModel model(source, 1);
      const std::vector<double> losses = model.loss(model.streams(ids, 2).back(), ids, 0, target, false).loss;
      return std::accumulate(losses.begin(), losses.end(), 0.0);
    };
    const ModelGradients gradients = DifferentiableModel(source, 2).gradients(ids, 2, 1, target);
    // The choice of experts is constant, and one that no token chose has none.
    for (const auto& [name, values] : source.tensors)
      EXPECT_TRUE(gradients.by.contains(name) || name.ends_with("correction_bias") ||
                  name.find(".experts.") != std::string::npos)
          << name;
    EXPECT_GE(gradients.by.size() + 4, source.tensors.size());
    for (const auto& [name, gradient] : gradients.by)
      if (names.empty() || std::ranges::count(names, name) > 0) expect_difference(source, name, gradient, loss);
  };
  run(false, {});
  // The teacher goes through final norm and head as they are and is constant, so these cannot be moved.
  run(true, {"model.layers.0.input_layernorm.weight", "model.layers.1.self_attn.o_proj.weight"});
}

TEST_P(GeneratedGradients, DependOnNeitherThreadsNorBatchesNorTapes) {
  const GeneratedSource source(GetParam().changes);
  const std::vector<std::int32_t> ids = some_ids(5 * 110, 37);
  DifferentiableModel one(source, 1), three(source, 3);
  const ModelGradients gradients = one.gradients(ids, 5, 0.01F);
  EXPECT_EQ(gradients.bits, three.gradients(ids, 5, 0.01F).bits);
  EXPECT_EQ(gradients.bits, three.gradients(ids, 5, 0.01F, nullptr, true).bits);
  const std::size_t sequence = 110 * 24;
  for (std::size_t s = 0; s < 5; ++s) {
    const auto first = ids.begin() + static_cast<std::ptrdiff_t>(110 * s);
    const ModelGradients alone = three.gradients({first, first + 110}, 1, 0.01F);
    for (std::size_t i = 0; i < alone.input.size(); ++i)
      EXPECT_TRUE(std::equal(alone.input[i].begin(), alone.input[i].end(),
                             gradients.input[i].begin() + static_cast<std::ptrdiff_t>(s * sequence)));
  }
}

INSTANTIATE_TEST_SUITE_P(Architectures, GeneratedGradients, ::testing::ValuesIn(architectures()),
                         [](const auto& parameter) { return std::string(parameter.param.name); });

TEST(Gradients, OfALongSequenceComeInPieces) {
  GeneratedSource source(core::Json{{"num_hidden_layers", 1}});
  const auto n = static_cast<std::int32_t>(kFeedForwardRows) + 40;
  const std::vector<std::int32_t> ids = some_ids(n, 37);
  const float factor = 1.0F / 64;
  DifferentiableModel whole(source, 2);
  const ModelGradients gradients = whole.gradients(ids, 1, factor);
  EXPECT_EQ(gradients.bits, whole.gradients(ids, 1, factor, nullptr, true).bits);
  EXPECT_EQ(gradients.n_calls.at("model.layers.0.mlp.up_proj"), 2);
  EXPECT_EQ(gradients.n_calls.at("model.layers.0.self_attn.q_proj"), 1);
  const auto loss = [&] {
    DifferentiableModel model(source, 2);
    const std::vector<double> losses = model.loss(model.streams(ids, 1).back(), ids, 0, nullptr, false).loss;
    return std::accumulate(losses.begin(), losses.end(), 0.0) / 64;
  };
  for (const char* name : {"self_attn.k_proj.weight", "mlp.up_proj.weight", "post_attention_layernorm.weight"})
    expect_difference(source, std::string("model.layers.0.") + name,
                      gradients.by.at(std::string("model.layers.0.") + name), loss);
}

TEST(Gradients, WhatIsNotWantedChangesNothing) {
  const GeneratedSource source(core::Json{{"attention_bias", true}});
  DifferentiableModel model(source, 2);
  const std::vector<std::int32_t> ids = some_ids(20, 37);
  const std::vector<HiddenStates> entered = model.streams(ids, 2);
  Transformer::LossGradient with = model.transformer.cross_entropy(entered.back(), ids, 1, nullptr, true);
  const Array<float> norm = model.transformer.final_norm();
  Transformer::LossGradient without = model.transformer.cross_entropy(entered.back(), ids, 1, &norm);
  EXPECT_EQ(with.loss, without.loss);
  EXPECT_EQ(with.loss, model.transformer.next_token_nll(entered.back(), ids));
  EXPECT_EQ(with.norm.to_host(), without.norm.to_host());
  EXPECT_TRUE(without.head.empty());
  BlockGradients sums = model.transformer.make_gradients(model.blocks[1]);
  model.transformer.backward_block(model.blocks[1], entered[1], with.hidden, &sums, nullptr);
  model.transformer.backward_block(model.blocks[1], entered[1], without.hidden, nullptr, nullptr);
  EXPECT_EQ(with.hidden.values.to_host(), without.hidden.values.to_host());

  // The loss alone.
  const Transformer::LossGradient alone = model.transformer.cross_entropy(entered.back(), ids, 0);
  EXPECT_EQ(alone.loss, with.loss);
  EXPECT_TRUE(alone.hidden.values.empty() && alone.norm.empty() && alone.head.empty());
}

TEST(Gradients, ANormOfOnesOwnIsTaken) {
  GeneratedSource source(core::Json::object());
  DifferentiableModel model(source, 2);
  const std::vector<std::int32_t> ids = some_ids(20, 37);
  const std::vector<HiddenStates> entered = model.streams(ids, 1);
  std::vector<float> moved = model.transformer.final_norm().to_host();
  for (std::size_t i = 0; i < moved.size(); ++i) moved[i] += 0.1F * static_cast<float>(i % 3);
  const Array<float> norm(model.context, std::span<const float>(moved));
  const Transformer::LossGradient given = model.transformer.cross_entropy(entered.back(), ids, 1, &norm, true);
  // A teacher goes through the model's own norm.
  double apart = 0;
  for (const double value : model.transformer.divergence(entered.back(), entered.back(), 0, &norm).loss) apart += value;
  EXPECT_GT(apart, 1e-4);
  source.tensors.at("model.norm.weight") = moved;
  DifferentiableModel other(source, 2);
  const Transformer::LossGradient own = other.transformer.cross_entropy(entered.back(), ids, 1, nullptr, true);
  EXPECT_EQ(given.loss, own.loss);
  EXPECT_EQ(given.hidden.values.to_host(), own.hidden.values.to_host());
  EXPECT_EQ(given.norm.to_host(), own.norm.to_host());
  EXPECT_EQ(given.head.to_host(), own.head.to_host());
  for (const double value : other.transformer.divergence(entered.back(), entered.back(), 0).loss)
    EXPECT_NEAR(value, 0, 1e-12);
}

TEST(Comparison, IsOfEachModelsOwnPredictions) {
  for (const core::Json& changes : {core::Json::object(), core::Json{{"final_logit_softcapping", 3.0}}}) {
    core::Json family = changes;
    if (!changes.empty())
      family["model_type"] = "gemma2", family["query_pre_attn_scalar"] = 6, family["hidden_act"] = "gelu_pytorch_tanh";
    GeneratedSource source(family), other_source(family);
    for (const char* name : {"model.embed_tokens.weight", "model.norm.weight"})
      for (float& value : other_source.tensors.at(name)) value *= 0.9F;
    const std::vector<std::int32_t> ids = some_ids(3 * 20, 37);
    DifferentiableModel model(source, 2), other(other_source, 2);
    const HiddenStates hidden = std::move(model.streams(ids, 3).back()),
                       reference = std::move(other.streams(ids, 3).back());
    const Transformer::Comparison compared =
        model.transformer.compare_predictions(hidden, other.transformer, reference, ids);
    EXPECT_EQ(compared.nll, model.transformer.next_token_nll(hidden, ids));
    EXPECT_EQ(compared.reference_nll, other.transformer.next_token_nll(reference, ids));
    std::vector<std::int64_t> rows;
    for (std::int64_t row = 0; row < 60; ++row)
      if (row % 20 != 19) rows.push_back(row);
    const std::vector<float> own = model.transformer.logits(hidden, rows),
                             from = other.transformer.logits(reference, rows);
    std::int64_t n_same = 0;
    for (std::size_t i = 0; i < rows.size(); ++i) {
      const std::span<const float> q(own.data() + 37 * i, 37), p(from.data() + 37 * i, 37);
      const auto normaliser = [](std::span<const float> logits) {
        double sum = 0;
        for (const float logit : logits) sum += std::exp(static_cast<double>(logit));
        return std::log(sum);
      };
      const double of_q = normaliser(q), of_p = normaliser(p);
      double divergence = 0;
      for (std::size_t j = 0; j < 37; ++j) {
        const double log_p = static_cast<double>(p[j]) - of_p, log_q = static_cast<double>(q[j]) - of_q;
        divergence += std::exp(log_p) * (log_p - log_q);
      }
      EXPECT_NEAR(compared.divergence[i], divergence, 1e-9);
      const bool same = std::ranges::max_element(q) - q.begin() == std::ranges::max_element(p) - p.begin();
      EXPECT_EQ(compared.same_choice[i], same);
      n_same += same ? 1 : 0;
    }
    EXPECT_GT(n_same, 0);
    EXPECT_LT(n_same, 57);
    // Beside itself.
    const Transformer::Comparison itself =
        model.transformer.compare_predictions(hidden, model.transformer, hidden, ids);
    for (const double value : itself.divergence) EXPECT_NEAR(value, 0, 1e-12);
    EXPECT_EQ(std::ranges::count(itself.same_choice, true), 57);
    EXPECT_EQ(itself.reference_nll, compared.nll);
  }
  GeneratedSource source(core::Json::object()), wider(core::Json{{"vocab_size", 38}});
  DifferentiableModel model(source, 1), other(wider, 1);
  const std::vector<std::int32_t> ids = some_ids(20, 37);
  const HiddenStates hidden = std::move(model.streams(ids, 1).back()),
                     reference = std::move(other.streams(ids, 1).back());
  EXPECT_THROW(model.transformer.compare_predictions(hidden, other.transformer, reference, ids), core::FormatError);
}

TEST(Gradients, ProductsWith16BitWeightsAreOfTheirWidenedValues) {  // bf16: with derivatives that are rounded to it
  backend::Context context(backend::Device::cpu, 2);
  const std::int64_t n_rows = 5, n_out = 19, n_in = 23;
  std::mt19937 engine(1);
  std::normal_distribution<float> normal;
  std::vector<float> w(static_cast<std::size_t>(n_out * n_in)), dy(static_cast<std::size_t>(n_rows * n_out));
  for (float& value : w) value = core::round_to(core::DType::bf16, normal(engine));
  for (float& value : dy) value = normal(engine);
  const auto product = [&](core::DType dtype, const std::vector<float>& derivative) {
    const HostTensor tensor = host_tensor(dtype, w);
    LinearWeight weight;
    weight.dtype = dtype;
    if (dtype == core::DType::f32)
      weight.wide = Array<float>(context, std::span<const float>(tensor.wide));
    else
      weight.narrow = Array<std::uint16_t>(context, std::span<const std::uint16_t>(tensor.narrow));
    std::vector<float> dx(static_cast<std::size_t>(n_rows * n_in), 2.0F);
    multiply_transposed(context, weight, n_rows, n_out, n_in, derivative.data(), true, dx.data());
    return dx;
  };
  const std::vector<float> dx = product(core::DType::f32, dy);
  EXPECT_EQ(dx, product(core::DType::f16, dy));
  std::vector<float> rounded = dy;
  for (float& value : rounded) value = core::round_to(core::DType::bf16, value);
  const std::vector<float> of_rounded = product(core::DType::f32, rounded), in_bf16 = product(core::DType::bf16, dy);
  for (std::size_t i = 0; i < dx.size(); ++i) EXPECT_NEAR(in_bf16[i], of_rounded[i], 1e-5);
  for (std::size_t r = 0; r < 5; ++r)
    for (std::size_t i = 0; i < 23; ++i) {
      double sum = 2;
      for (std::size_t o = 0; o < 19; ++o)
        sum += static_cast<double>(dy[r * 19 + o]) * static_cast<double>(w[o * 23 + i]);
      EXPECT_NEAR(dx[r * 23 + i], sum, 1e-4);
    }
}

TEST(Gradients, InBf16AreNearThoseInF32) {
  const GeneratedSource source(core::Json::object());
  DifferentiableModel exact(source, 2), rounded(source, 2, core::DType::bf16), alone(source, 1, core::DType::bf16);
  const std::vector<std::int32_t> ids = some_ids(40, 37);
  const ModelGradients wanted = exact.gradients(ids, 2, 1.0F), got = rounded.gradients(ids, 2, 1.0F);
  // Each product's operands are off by 2^-9 of themselves.
  for (std::size_t block = 0; block < wanted.input.size(); ++block) {
    double difference = 0, size = 0;
    for (std::size_t i = 0; i < wanted.input[block].size(); ++i) {
      const double value = static_cast<double>(wanted.input[block][i]);
      difference += std::pow(static_cast<double>(got.input[block][i]) - value, 2);
      size += value * value;
    }
    EXPECT_GT(difference, 0) << block;
    EXPECT_LT(std::sqrt(difference / size), 0.02) << block;
  }
  EXPECT_EQ(alone.gradients(ids, 2, 1.0F, nullptr, true).bits, got.bits);
}

TEST(Gradients, AreRefusedForOtherShapesAndTypes) {
  const GeneratedSource source(core::Json::object());
  DifferentiableModel model(source, 1);
  const std::vector<std::int32_t> ids = some_ids(20, 37);
  std::vector<HiddenStates> entered = model.streams(ids, 2);
  HiddenStates other = model.transformer.embed(ids, 1, 20);
  EXPECT_THROW(model.transformer.backward_block(model.blocks[0], entered[0], other, nullptr, nullptr),
               core::InternalError);
  EXPECT_THROW(model.transformer.divergence(entered[0], other, 1), core::InternalError);
  EXPECT_THROW(model.transformer.cross_entropy(entered[0], some_ids(19, 37), 1), core::InternalError);
  Transformer half(source, model.context, core::DType::f16);
  EXPECT_THROW(half.backward_block(half.load_block(0), entered[0], entered[1], nullptr, nullptr), core::InternalError);
}

}  // namespace
}  // namespace voronoi::model
