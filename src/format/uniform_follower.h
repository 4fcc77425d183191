// A linear in uniform codes that follows a dense weight: what it stores is that weight, rounded to grids between the
// extremes of its groups.
#pragma once

#include <memory>
#include <span>
#include <vector>

#include "core/thread_pool.h"
#include "format/tuned_arrays.h"
#include "format/uniform.h"
#include "kernels/uniform.h"

namespace voronoi::format {

/// What is followed. A group's grid reaches from its least weight (or 0) to its largest (or 0), and by the margins
/// beyond them: those are what the grid had more when it was met first.
struct FollowedWeight {
  std::vector<float> values;   ///< [out, in], natural column order
  std::vector<float> margins;  ///< [out, n_groups, 2]: below, above, before the column scales
};

/// No number of it is a parameter: the scales follow as the codes do, and codes() are all that it stores but the column
/// order.
class UniformFollower final : public TunedArrays {
 public:
  /// Of a sound encoding of uniform_format().
  UniformFollower(backend::Context& context, const Encoding& encoding);

  /// `weight` [out, in] (host), each number of it brought into the cell of its present code, by no more than that takes
  /// (a hundredth of a cell off its border): follow() gives the present linear again. Empty: the decoded weight.
  FollowedWeight start(core::ThreadPool& pool, std::span<const float> weight) const;
  /// Grids and codes of the weight as it is now; finite.
  void follow(core::ThreadPool& pool, const FollowedWeight& followed);

  void decode(backend::Context& context, const float* parameters, float* weight) const override;
  /// Its derivative by the weight is the weight's own, straight through the rounding: there is nothing to add to.
  void add_gradient(backend::Context&, const float*, const float*, const float*, float*) const override {}
  /// Codes move with the weight alone.
  std::int64_t recode(backend::Context&, std::span<const float>, std::span<const float>, double) override { return 0; }

 private:
  std::int64_t n_groups() const;
  /// Of stored columns; 1 where the encoding has none.
  std::vector<float> stored_column_scales() const;

  UniformExtents extents_;
  std::vector<std::uint16_t> perm_;  ///< stored column -> natural
};

/// Null for an encoding of another format.
std::unique_ptr<UniformFollower> make_follower(backend::Context& context, const Encoding& encoding);

}  // namespace voronoi::format
