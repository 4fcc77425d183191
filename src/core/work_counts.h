// What this process has done since it began: bytes that moved, tokens that passed blocks, operations. Counted where
// they are asked for, from shapes, not in the kernels: what a kernel spares itself or pads is not seen, so that a plan
// (planning/plan.h) can tell the same quantities before.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

namespace voronoi::core {

enum class Counted : std::size_t {
  /// Handed to other ranks: each byte as often as there are ranks that get it. Single numbers that ranks agree on are
  /// not counted.
  sent_bytes,
  team_bytes,        ///< of these, between the members of teams
  scheduling_bytes,  ///< of these, between coordinator and workers
  model_bytes,       ///< read of the model's tensors, as they are stored
  // Of arrays; what a file has beside them is not counted.
  layer_bytes_read,
  layer_bytes_written,
  hessian_bytes_read,
  hessian_bytes_written,
  // A token once for each block.
  forward_tokens,
  backward_tokens,
  // A multiplication and an addition are two.
  gemm_flops,     ///< products of matrices, those of attention among them
  gram_flops,     ///< Hessians (one triangle), and moments of two streams
  factor_flops,   ///< factors and inverses
  nearest_flops,  ///< distances to centroids, or states weighed in their place
  seeding_flops,  ///< potentials of k-means++
};
inline constexpr std::size_t kCounted = static_cast<std::size_t>(Counted::seeding_flops) + 1;

/// As journals and plans call it: "sent_bytes".
std::string_view counted_name(Counted what);

/// A number of each.
class WorkCounts {
 public:
  double& operator[](Counted what) { return values_[static_cast<std::size_t>(what)]; }
  double operator[](Counted what) const { return values_[static_cast<std::size_t>(what)]; }
  std::span<double> values() { return values_; }
  std::span<const double> values() const { return values_; }
  WorkCounts& operator+=(const WorkCounts& other);
  friend WorkCounts operator-(WorkCounts a, const WorkCounts& b);

 private:
  std::array<double, kCounted> values_{};
};

/// Any thread.
void count_work(Counted what, double amount);
inline void count_work(Counted what, std::int64_t amount) { count_work(what, static_cast<double>(amount)); }
/// A product of [m, k] with [k, n].
void count_product(std::int64_t m, std::int64_t n, std::int64_t k);

/// So far.
WorkCounts work_done();

}  // namespace voronoi::core
