#include "model/two_way_divergence.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <numeric>
#include <vector>

#include "core/random.h"
#include "model/gradients.h"
#include "support/generated_source.h"

namespace voronoi::model {
namespace {

std::vector<float> random_logits(std::size_t n, double spread, std::uint64_t stream) {
  const core::CounterRandom random(3, stream);
  std::vector<float> logits(n);
  for (std::size_t i = 0; i < n; ++i) logits[i] = static_cast<float>(spread * (random.uniform(i) - 0.5));
  return logits;
}

std::vector<double> log_softmax(const std::vector<double>& logits) {
  double sum = 0;
  for (const double logit : logits) sum += std::exp(logit);
  std::vector<double> result;
  for (const double logit : logits) result.push_back(logit - std::log(sum));
  return result;
}

/// KL(softmax(a) || softmax(b)).
double divergence(const std::vector<double>& a, const std::vector<double>& b) {
  const std::vector<double> p = log_softmax(a), q = log_softmax(b);
  double sum = 0;
  for (std::size_t i = 0; i < p.size(); ++i) sum += std::exp(p[i]) * (p[i] - q[i]);
  return sum;
}

double mixture(double reverse, const std::vector<double>& teacher, const std::vector<double>& student) {
  return reverse * divergence(student, teacher) + (1 - reverse) * divergence(teacher, student);
}

TEST(TwoWayDivergence, LossAndDerivativeAreThoseOfTheDefinition) {
  backend::Context context(backend::Device::cpu, 2);
  constexpr std::size_t kRows = 19, kVocab = 31;
  const std::vector<float> teacher = random_logits(kRows * kVocab, 12, 1),
                           student = random_logits(kRows * kVocab, 8, 2);
  // 0 and 1 are the two divergences alone.
  for (const double reverse : {0.0, 0.3, 1.0}) {
    std::vector<float> slopes = student;
    std::vector<double> loss(kRows);
    two_way_divergence(context, kRows, kVocab, reverse, 0.5, teacher.data(), slopes.data(), loss.data());
    for (std::size_t r = 0; r < kRows; ++r) {
      const auto row = [&](const std::vector<float>& values) {
        return std::vector<double>(values.begin() + static_cast<std::ptrdiff_t>(r * kVocab),
                                   values.begin() + static_cast<std::ptrdiff_t>((r + 1) * kVocab));
      };
      const std::vector<double> p = row(teacher), q = row(student);
      EXPECT_NEAR(loss[r], mixture(reverse, p, q), 1e-12);
      for (std::size_t i = 0; i < kVocab; ++i) {
        constexpr double kStep = 1e-4;
        std::vector<double> up = q, down = q;
        up[i] += kStep;
        down[i] -= kStep;
        const double slope = (mixture(reverse, p, up) - mixture(reverse, p, down)) / (2 * kStep);
        EXPECT_NEAR(slopes[r * kVocab + i], 0.5 * slope, 1e-7) << reverse << " " << r << " " << i;
      }
    }
  }
}

TEST(TwoWayDivergence, HoldsAgainstLargeLogitsAndEqualOnes) {
  backend::Context context(backend::Device::cpu, 1);
  const std::vector<float> teacher{1000, -1000, 0, 0};
  std::vector<float> logits{-1000, 1000, 0, 0};
  double loss = 0;
  two_way_divergence(context, 1, 4, 0.5, 1, teacher.data(), logits.data(), &loss);
  EXPECT_NEAR(loss, 2000, 1e-6);
  for (const float slope : logits) EXPECT_TRUE(std::isfinite(slope));
  logits = teacher;
  two_way_divergence(context, 1, 4, 0.5, 1, teacher.data(), logits.data(), &loss);
  EXPECT_NEAR(loss, 0, 1e-12);
  for (const float slope : logits) EXPECT_NEAR(slope, 0, 1e-12);
}

/// Through final norm and head, down to the hidden states.
TEST(TwoWayDivergence, IsAModelsLoss) {
  const test::GeneratedSource source(core::Json::object());
  test::DifferentiableModel model(source, 2);
  std::vector<std::int32_t> ids(12);
  std::iota(ids.begin(), ids.end(), 3);
  const std::vector<HiddenStates> streams = model.streams(ids, 1);
  const HiddenStates &student = streams.back(), &teacher = streams.front();
  const std::int64_t n = std::ssize(ids), dim = source.config().hidden_size;
  std::vector<std::int64_t> rows(ids.size());
  std::iota(rows.begin(), rows.end(), 0);
  const auto expected = [&](const HiddenStates& states) {
    const std::vector<float> a = model.transformer.logits(teacher, rows), b = model.transformer.logits(states, rows);
    double sum = 0;
    const auto vocab = static_cast<std::ptrdiff_t>(source.config().vocab_size);
    for (std::ptrdiff_t r = 0; r < n; ++r)
      sum += mixture(0.4, {a.begin() + r * vocab, a.begin() + (r + 1) * vocab},
                     {b.begin() + r * vocab, b.begin() + (r + 1) * vocab});
    return sum;
  };
  const Transformer::LossGradient found = model.transformer.divergence(student, teacher, 1, nullptr, false, 0.4);
  EXPECT_NEAR(std::accumulate(found.loss.begin(), found.loss.end(), 0.0), expected(student), 1e-4);
  const std::vector<float> gradient = found.hidden.values.to_host();
  double along = 0, norm = 0;
  for (const float slope : gradient) norm += static_cast<double>(slope) * static_cast<double>(slope);
  norm = std::sqrt(norm);
  const auto moved = [&](double by) {
    std::vector<float> values = student.values.to_host();
    for (std::size_t i = 0; i < values.size(); ++i)
      values[i] += static_cast<float>(by * static_cast<double>(gradient[i]) / norm);
    return expected({1, n, backend::Array<float>(model.context, std::span<const float>(values))});
  };
  along = (moved(0.01) - moved(-0.01)) / 0.02;
  EXPECT_GT(norm, 1e-3);
  EXPECT_NEAR(along, norm, 0.01 * norm);
  EXPECT_EQ(std::ssize(gradient), n * dim);
}

}  // namespace
}  // namespace voronoi::model
