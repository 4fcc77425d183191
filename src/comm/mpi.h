// The only room that knows MPI. RAII handles; every MPI error becomes CommError.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace voronoi::comm {

/// MPI_Init_thread(MPI_THREAD_MULTIPLE) ... MPI_Finalize. A program started without mpirun is one rank. The destructor
/// waits for all ranks: a rank that leaves alone because of an error calls abort() before.
class Environment {
 public:
  Environment(int* argc, char*** argv);
  ~Environment();
  Environment(const Environment&) = delete;
  Environment& operator=(const Environment&) = delete;
  /// Ends every rank at once (MPI_Abort): for errors after which the others would wait for ever.
  [[noreturn]] static void abort(int exit_code);
};

/// Of the MPI library in use, as it calls itself: "Open MPI v4.1.4".
std::string library_version();

/// The rank that mpirun or srun gave this process, told without MPI; 0 when nobody did.
int launched_rank();
/// Whether somebody did.
bool is_launched();

struct MessageInfo {
  int source = 0, tag = 0;
};

/// Ranks on this host, and this rank's place among them: for dividing cores.
struct LocalRanks {
  int rank = 0, size = 1;
};

/// A communicator handle; duplicated or split ones are freed by the owner. Methods are collective where MPI's are. All
/// waiting is by polling with sleeps that grow with the time waited (50 us .. 5 ms), so a waiting thread leaves its
/// core to others. Tags: 0 .. 32767. A message above 64 MiB travels in pieces: while one is under way, one thread a
/// side uses its (peer, tag). What is sent is counted (core/work_counts.h): that of a duplicate as scheduling, of a
/// subgroup as a team's.
class Communicator {
 public:
  static Communicator world();  ///< unmanaged
  /// One rank without MPI, which need not have been started: agreement and collectives among one. It can neither be
  /// divided nor send.
  static Communicator alone();
  Communicator duplicate() const;  ///< own message space
  /// Sub-communicator of `ranks` (of this one, rising); collective over those ranks only. No receive may be waiting on
  /// this communicator meanwhile: Open MPI 4 agrees on the new one by ordinary messages with this tag.
  Communicator subgroup(std::span<const int> ranks, int tag) const;
  ~Communicator();
  Communicator(Communicator&&) noexcept;
  Communicator& operator=(Communicator&&) noexcept;

  int rank() const;
  int size() const;
  void barrier() const;
  void broadcast(std::span<std::byte> bytes, int root) const;  ///< any size, the same on every rank
  std::string broadcast(const std::string& text, int root) const;
  /// Every rank's bytes, by rank; sizes may differ.
  std::vector<std::vector<std::byte>> all_gather(std::span<const std::byte> mine) const;
  /// The same when all ranks know all sizes already: saves their exchange.
  std::vector<std::vector<std::byte>> all_gather(std::span<const std::byte> mine,
                                                 std::span<const std::int64_t> sizes) const;
  std::vector<std::int64_t> all_gather_value(std::int64_t mine) const;
  std::vector<std::vector<std::byte>> gather(std::span<const std::byte> mine, int root) const;  ///< empty off the root
  std::int64_t all_max(std::int64_t value) const;
  void send(std::span<const std::byte> bytes, int destination, int tag) const;
  /// A send that does not wait until a receiver looks, where MPI moves the message without this rank's help (up to 4
  /// KiB; longer ones are waited for). Messages keep their order. One thread at a time; what is under way when the
  /// communicator is destroyed is waited for.
  void post(std::vector<std::byte> bytes, int destination, int tag) const;
  std::vector<std::byte> receive(int source, int tag) const;
  /// Sends and receives at the same time, so that rings of ranks need no order. Nothing goes where `mine` is empty, nor
  /// comes where nothing is expected: both sides know.
  std::vector<std::byte> exchange(std::span<const std::byte> mine, int to, int from, bool expects, int tag) const;
  /// Returns early with nothing when `stop` (optional) says so. shortest_nap: above 0, sleeps at least so long before
  /// it looks again.
  std::optional<std::vector<std::byte>> receive_any(MessageInfo& info, const std::function<bool()>& stop = nullptr,
                                                    std::chrono::microseconds shortest_nap = {}) const;

 private:
  friend LocalRanks local_ranks(const Communicator& communicator);
  struct Handle;
  explicit Communicator(Handle* handle) : handle_(handle) {}
  Handle* handle_ = nullptr;
};

LocalRanks local_ranks(const Communicator& communicator);

}  // namespace voronoi::comm
