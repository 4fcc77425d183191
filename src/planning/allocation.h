// How many bits each linear gets of what a model may spend: the choice among settings whose cost and harm are known.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace voronoi::planning {

/// Rows of a linear whose errors under a quick setting tell those of all.
inline constexpr std::int64_t kLookRows = 256;

/// A setting that linears may take.
struct Candidate {
  std::int64_t stored_bits = 0;  ///< of all of the share's linears, codebooks and scales included
  double loss_rise = 0;          ///< what it is predicted to add to the loss, in units that all shares have in common
};

/// Linears that take the same setting: one of them, or the experts of a layer at the same place.
struct Share {
  std::string name;                   ///< for messages
  std::vector<Candidate> candidates;  ///< one or more, in any order
};

struct Allocation {
  std::vector<std::size_t> choice;  ///< by share: the place of its candidate
  std::int64_t stored_bits = 0;
  double loss_rise = 0;
  /// What the last bit was worth: the fall of the loss a bit, below which no share takes a step up. Infinite where the
  /// least of each is all that fits, 0 where nothing better is left.
  double worth_of_a_bit = 0;
};

/// Of all choices of at most `budget` bits one of little loss: the steps along the lower hulls of (bits, loss rise) in
/// the order of what a bit of them is worth, which is the optimum of each budget that they reach exactly (Lagrange);
/// what is left below the first step that does not fit goes to the steps that still do, the best first. Depends on
/// nothing but its input; of equals the share that comes first goes first. Nothing when even the least of each is too
/// much. InternalError for a loss rise that is no finite number.
std::optional<Allocation> allocate(const std::vector<Share>& shares, std::int64_t budget);

}  // namespace voronoi::planning
