// Rows of one operator shared by several workers. The rows are cut into chunks whose number does not depend on the
// team, sums are combined in chunk order: any team gives the same bits as one worker alone.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <utility>
#include <vector>

#include "core/error.h"

namespace voronoi::core {

/// Collective calls: every member makes the same calls in the same order. A member that fails tells the others, which
/// then throw as well: nobody waits for ever.
class Team {
 public:
  /// Of all arrays of a sum together: what is gathered whole sooner than it is summed in slices.
  static constexpr std::int64_t kGatheredBytes = std::int64_t{1} << 17;

  virtual ~Team() = default;
  virtual int rank() const = 0;
  virtual int size() const = 0;
  /// Every member's bytes in order of rank.
  virtual std::vector<std::vector<std::byte>> all_gather(std::span<const std::byte> mine) = 0;
  /// The sum, element by element, of n_arrays arrays of `size` values: those that the members give, any number of them
  /// each, one behind the other. From 0 on in the order of the members, the same bits as by one member alone.
  virtual std::vector<double> sum(std::span<const double> mine, std::int64_t size, std::int64_t n_arrays);
  /// The bytes of `root` in the place of everybody's, of the same number.
  virtual void broadcast(std::span<std::byte> bytes, int root);

  /// What check_stop() asks; nothing asked: no stop ever.
  void stop_when(std::function<bool()> stop) { stop_ = std::move(stop); }
  /// Between the passes of long work, on the thread that works: throws StopRequested once a stop was asked for. Not
  /// collective: the member fails with it, and so the others leave as well.
  void check_stop() const {
    if (stop_requested()) throw StopRequested();
  }
  bool stop_requested() const { return stop_ && stop_(); }

 private:
  std::function<bool()> stop_;
};

/// A team of one.
class SoloTeam final : public Team {
 public:
  int rank() const override { return 0; }
  int size() const override { return 1; }
  std::vector<std::vector<std::byte>> all_gather(std::span<const std::byte> mine) override {
    return {std::vector<std::byte>(mine.begin(), mine.end())};
  }
};

}  // namespace voronoi::core
