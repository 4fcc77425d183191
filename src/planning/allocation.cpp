#include "planning/allocation.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/error.h"

namespace voronoi::planning {
namespace {

/// From one corner of a share's lower hull to the next.
struct Step {
  std::size_t share = 0, to = 0;  ///< to: place of the candidate
  double worth = 0;               ///< fall of the loss a bit; falls from step to step of a share
};

double worth_of(const Candidate& from, const Candidate& to) {
  return (from.loss_rise - to.loss_rise) / static_cast<double>(to.stored_bits - from.stored_bits);
}

/// Places of the candidates on the lower hull, bits rising and loss falling; of equals the first.
std::vector<std::size_t> lower_hull(const std::vector<Candidate>& candidates) {
  std::vector<std::size_t> order(candidates.size());
  for (std::size_t i = 0; i < order.size(); ++i) order[i] = i;
  std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
    return std::pair(candidates[a].stored_bits, candidates[a].loss_rise) <
           std::pair(candidates[b].stored_bits, candidates[b].loss_rise);
  });
  std::vector<std::size_t> hull;
  for (const std::size_t next : order) {
    if (!hull.empty() && candidates[next].loss_rise >= candidates[hull.back()].loss_rise) continue;
    // Bits differ: of the same bits the one of less loss came first.
    while (hull.size() >= 2 && worth_of(candidates[hull[hull.size() - 2]], candidates[hull.back()]) <=
                                   worth_of(candidates[hull.back()], candidates[next]))
      hull.pop_back();
    hull.push_back(next);
  }
  return hull;
}

}  // namespace

std::optional<Allocation> allocate(const std::vector<Share>& shares, std::int64_t budget) {
  Allocation allocation;
  std::vector<Step> steps;
  for (std::size_t s = 0; s < shares.size(); ++s) {
    const std::vector<Candidate>& candidates = shares[s].candidates;
    VORONOI_REQUIRE(!candidates.empty(), shares[s].name + " has no setting to choose");
    for (const Candidate& candidate : candidates)
      VORONOI_REQUIRE(std::isfinite(candidate.loss_rise) && candidate.stored_bits >= 0,
                      "the loss rise of " + shares[s].name + " is no number");
    const std::vector<std::size_t> hull = lower_hull(candidates);
    allocation.choice.push_back(hull.front());
    allocation.stored_bits += candidates[hull.front()].stored_bits;
    for (std::size_t i = 1; i < hull.size(); ++i)
      steps.push_back({s, hull[i], worth_of(candidates[hull[i - 1]], candidates[hull[i]])});
  }
  if (allocation.stored_bits > budget) return std::nullopt;
  // Stable: steps of a share stay in their order, whose worth falls.
  std::stable_sort(steps.begin(), steps.end(), [](const Step& a, const Step& b) { return a.worth > b.worth; });
  const auto now = [&](std::size_t share) -> const Candidate& {
    return shares[share].candidates[allocation.choice[share]];
  };
  const auto take = [&](std::size_t share, std::size_t to) {
    allocation.stored_bits += shares[share].candidates[to].stored_bits - now(share).stored_bits;
    allocation.choice[share] = to;
  };
  allocation.worth_of_a_bit = std::numeric_limits<double>::infinity();
  std::size_t done = 0;
  for (; done < steps.size(); ++done) {
    const Step& step = steps[done];
    const std::int64_t more = shares[step.share].candidates[step.to].stored_bits - now(step.share).stored_bits;
    if (allocation.stored_bits + more > budget) break;
    take(step.share, step.to);
    allocation.worth_of_a_bit = step.worth;
  }
  if (done == steps.size()) allocation.worth_of_a_bit = 0;
  // Off the hulls too, as long as anything better fits.
  while (done < steps.size()) {
    Step best;
    for (std::size_t s = 0; s < shares.size(); ++s)
      for (std::size_t to = 0; to < shares[s].candidates.size(); ++to) {
        const Candidate& candidate = shares[s].candidates[to];
        if (candidate.stored_bits <= now(s).stored_bits || candidate.loss_rise >= now(s).loss_rise) continue;
        if (allocation.stored_bits + candidate.stored_bits - now(s).stored_bits > budget) continue;
        if (const double worth = worth_of(now(s), candidate); worth > best.worth) best = {s, to, worth};
      }
    if (!(best.worth > 0)) break;
    take(best.share, best.to);
  }
  for (std::size_t s = 0; s < shares.size(); ++s) allocation.loss_rise += now(s).loss_rise;
  return allocation;
}

}  // namespace voronoi::planning
