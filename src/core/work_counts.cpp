#include "core/work_counts.h"

#include <atomic>

namespace voronoi::core {
namespace {

constexpr std::array<std::string_view, kCounted> kCountedNames{
    "sent_bytes",          "team_bytes",         "scheduling_bytes",      "model_bytes",    "layer_bytes_read",
    "layer_bytes_written", "hessian_bytes_read", "hessian_bytes_written", "forward_tokens", "backward_tokens",
    "gemm_flops",          "gram_flops",         "factor_flops",          "nearest_flops",  "seeding_flops"};

std::array<std::atomic<double>, kCounted>& totals() {
  static std::array<std::atomic<double>, kCounted> values{};
  return values;
}

}  // namespace

std::string_view counted_name(Counted what) { return kCountedNames[static_cast<std::size_t>(what)]; }

WorkCounts& WorkCounts::operator+=(const WorkCounts& other) {
  for (std::size_t i = 0; i < kCounted; ++i) values_[i] += other.values_[i];
  return *this;
}

WorkCounts operator-(WorkCounts a, const WorkCounts& b) {
  for (std::size_t i = 0; i < kCounted; ++i) a.values_[i] -= b.values_[i];
  return a;
}

void count_work(Counted what, double amount) {
  totals()[static_cast<std::size_t>(what)].fetch_add(amount, std::memory_order_relaxed);
}

void count_product(std::int64_t m, std::int64_t n, std::int64_t k) {
  count_work(Counted::gemm_flops, 2 * static_cast<double>(m) * static_cast<double>(n) * static_cast<double>(k));
}

WorkCounts work_done() {
  WorkCounts counts;
  for (std::size_t i = 0; i < kCounted; ++i) counts.values()[i] = totals()[i].load(std::memory_order_relaxed);
  return counts;
}

}  // namespace voronoi::core
