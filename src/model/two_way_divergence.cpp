#include "model/two_way_divergence.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <span>
#include <vector>

#include "backend/tensor.h"

namespace voronoi::model {
namespace {

struct Softmax {
  std::vector<double> share;  // by token
  double log_sum = 0;         // of the exponentials of the logits

  void of(std::span<const float> logits) {
    const auto largest = static_cast<double>(*std::max_element(logits.begin(), logits.end()));
    share.resize(logits.size());
    double sum = 0;
    for (std::size_t i = 0; i < logits.size(); ++i) {
      share[i] = std::exp(static_cast<double>(logits[i]) - largest);
      sum += share[i];
    }
    for (double& value : share) value /= sum;
    log_sum = largest + std::log(sum);
  }
};

double row_loss(double reverse, double factor, std::span<const float> teacher, std::span<float> logits, Softmax& p,
                Softmax& q) {
  p.of(teacher);
  q.of(logits);
  double forward = 0, backward = 0;
  // log q - log p.
  const auto ratio = [&](std::size_t i) {
    return (static_cast<double>(logits[i]) - q.log_sum) - (static_cast<double>(teacher[i]) - p.log_sum);
  };
  for (std::size_t i = 0; i < logits.size(); ++i) {
    const double r = ratio(i);
    forward -= p.share[i] * r;
    backward += q.share[i] * r;
  }
  // The derivatives: q - p of the one, q (log q - log p - itself) of the other.
  for (std::size_t i = 0; i < logits.size(); ++i)
    logits[i] = static_cast<float>(
        factor * ((1 - reverse) * (q.share[i] - p.share[i]) + reverse * q.share[i] * (ratio(i) - backward)));
  return reverse * backward + (1 - reverse) * forward;
}

}  // namespace

void two_way_divergence(backend::Context& context, std::int64_t n_rows, std::int64_t vocab, double reverse,
                        double factor, const float* teacher, float* logits, double* loss) {
  const std::int64_t n = n_rows * vocab;
  const backend::HostView<float> from(context, teacher, n);
  std::vector<float> copy;
  float* values = logits;
  if (!context.on_host()) {
    copy.resize(static_cast<std::size_t>(n));
    context.memory().copy_to_host(context.exec(), logits, n * std::int64_t{sizeof(float)}, copy.data());
    values = copy.data();
  }
  const auto width = static_cast<std::size_t>(vocab);
  constexpr std::int64_t kRows = 8;  // that share buffers
  context.pool().parallel_for((n_rows + kRows - 1) / kRows, [&](std::int64_t task) {
    Softmax p, q;
    for (std::int64_t r = task * kRows; r < std::min(n_rows, (task + 1) * kRows); ++r) {
      const auto first = static_cast<std::size_t>(r) * width;
      loss[r] = row_loss(reverse, factor, from.values().subspan(first, width), {values + first, width}, p, q);
    }
  });
  if (!context.on_host())
    context.memory().copy_from_host(context.exec(), copy.data(), n * std::int64_t{sizeof(float)}, logits);
}

}  // namespace voronoi::model
