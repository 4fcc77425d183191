// The only room that knows MPI. RAII handles; every MPI error becomes CommError.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace voronoi::comm {

/// MPI_Init_thread(MPI_THREAD_MULTIPLE) ... MPI_Finalize. A program started without mpirun is one rank.
class Environment {
 public:
  Environment(int* argc, char*** argv);
  ~Environment();
  Environment(const Environment&) = delete;
  Environment& operator=(const Environment&) = delete;
  /// Ends every rank at once (MPI_Abort): for errors after which the others would wait for ever.
  [[noreturn]] static void abort(int exit_code);
};

struct MessageInfo {
  int source = 0, tag = 0;
};

/// A communicator handle; duplicated or split ones are freed by the owner. Methods are collective where MPI's are.
class Communicator {
 public:
  static Communicator world();      ///< unmanaged
  Communicator duplicate() const;   ///< own message space
  /// Sub-communicator of `ranks` (of this one, rising); collective over those ranks only.
  Communicator subgroup(std::span<const int> ranks, int tag) const;
  ~Communicator();
  Communicator(Communicator&&) noexcept;
  Communicator& operator=(Communicator&&) noexcept;

  int rank() const;
  int size() const;
  void barrier() const;
  void broadcast(std::span<std::byte> bytes, int root) const;  ///< any size, sent in pieces below 2^31 bytes
  std::string broadcast(const std::string& text, int root) const;
  /// Every rank's bytes, by rank; sizes may differ.
  std::vector<std::vector<std::byte>> all_gather(std::span<const std::byte> mine) const;
  std::vector<std::vector<std::byte>> gather(std::span<const std::byte> mine, int root) const;  ///< empty off the root
  std::int64_t all_max(std::int64_t value) const;
  void send(std::span<const std::byte> bytes, int destination, int tag) const;
  std::vector<std::byte> receive(int source, int tag) const;
  /// Waits by polling with short sleeps (so a waiting thread leaves its core to others); returns early with nothing when
  /// `stop` (optional) says so.
  std::optional<std::vector<std::byte>> receive_any(MessageInfo& info, const std::function<bool()>& stop = nullptr) const;

 private:
  struct Handle;
  explicit Communicator(Handle* handle) : handle_(handle) {}
  Handle* handle_ = nullptr;
};

/// Ranks on this host, and this rank's place among them: for dividing cores.
struct LocalRanks {
  int rank = 0, size = 1;
};
LocalRanks local_ranks(const Communicator& communicator);

}  // namespace voronoi::comm
