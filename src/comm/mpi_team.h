// A core::Team of MPI ranks in which a member's failure reaches all others.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "comm/mpi.h"
#include "core/error.h"
#include "core/team.h"

namespace voronoi::comm {

/// How a team's work ended; the same on every member.
struct TeamVerdict {
  bool ok = true;
  core::ExitCode code = core::ExitCode::ok;
  std::string text;               ///< "rank 3: ..." a line for each failed member
  std::vector<int> failed_ranks;  ///< ranks of the parent communicator, rising
};

/// Every member ends with finish() or fail(); whatever calls the members make, all of them come to the same verdict and
/// none waits for ever. Once there is a verdict other than ok, every call throws it.
class MpiTeam final : public core::Team {
 public:
  /// Collective over `ranks` (of `parent`, rising). Teams that are formed at the same time need different tags;
  /// `parent` is used for nothing but teams (see Communicator::subgroup).
  MpiTeam(const Communicator& parent, std::span<const int> ranks, int tag);

  int rank() const override { return communicator_.rank(); }
  int size() const override { return communicator_.size(); }
  /// Throws the error of the member that failed (StopRequested when it was that), naming its rank.
  std::vector<std::vector<std::byte>> all_gather(std::span<const std::byte> mine) override;
  /// Throws likewise. Every member sums a slice of the values over all arrays, then the slices are gathered: of P
  /// arrays over N members it receives P / N + 1 arrays, not P. Few values are gathered whole.
  std::vector<double> sum(std::span<const double> mine, std::int64_t size, std::int64_t n_arrays) override;
  /// Throws likewise.
  void broadcast(std::span<std::byte> bytes, int root) override;

  /// Of this member, by all calls so far: what it sends to others, once each (a broadcast once in all), and receives.
  struct Traffic {
    std::int64_t sent = 0, received = 0;
  };
  const Traffic& traffic() const { return traffic_; }

  /// This member did its part; throws when another failed.
  void finish();
  /// This member cannot go on. Returns once the others know; does nothing when there is a verdict already.
  void fail(core::ExitCode code, const std::string& text);
  const TeamVerdict& verdict() const { return verdict_; }

 private:
  std::vector<std::int64_t> exchange(std::int64_t word, core::ExitCode code, const std::string& text);
  /// Every member's number of bytes; throws the verdict when there is one.
  std::vector<std::int64_t> exchange_sizes(std::size_t mine);
  std::vector<std::vector<std::byte>> gather(std::span<const std::byte> mine, std::span<const std::int64_t> sizes);
  [[noreturn]] void throw_verdict() const;

  std::vector<int> ranks_;
  Communicator communicator_;
  bool over_ = false;
  TeamVerdict verdict_;
  Traffic traffic_;
};

}  // namespace voronoi::comm
