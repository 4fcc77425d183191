#include "comm/mpi.h"

#define OMPI_SKIP_MPICXX 1
#include <mpi.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <thread>
#include <utility>

#include "core/error.h"
#include "core/log.h"
#include "core/work_counts.h"

namespace voronoi::comm {
namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::microseconds;

/// Largest single transfer in bytes. MPI counts are int; 64 MiB costs no bandwidth and keeps staging buffers small.
constexpr std::int64_t kPieceBytes = std::int64_t{1} << 26;
/// Largest round of a gather, all ranks together: what arrives is copied from here, which is fast while it fits a
/// cache.
constexpr std::int64_t kStagingBytes = std::int64_t{1} << 23;
/// Open MPI's shared memory transport sends up to 4 KiB without waiting for the other side.
constexpr std::size_t kEagerBytes = 4096;
constexpr int kMaxTag = 32767;  // what every MPI must offer

void check(int code, const char* call) {
  if (code == MPI_SUCCESS) return;
  char text[MPI_MAX_ERROR_STRING] = {};
  int length = 0;
  if (MPI_Error_string(code, text, &length) != MPI_SUCCESS) length = 0;
  throw core::CommError(
      std::string(call) + ": " +
      (length > 0 ? std::string(text, static_cast<std::size_t>(length)) : "error " + std::to_string(code)));
}

void check_tag(int tag) { VORONOI_REQUIRE(tag >= 0 && tag <= kMaxTag, "message tag " + std::to_string(tag)); }

/// far: the peers may come in minutes. near: they are there and data flows, which only moves while MPI is called.
enum class Peers { far, near };

class Backoff {
 public:
  explicit Backoff(Peers peers)
      : spin_(peers == Peers::near ? microseconds(5000) : microseconds(100)),
        shortest_nap_(50),
        longest_nap_(peers == Peers::near ? microseconds(50) : kLongestNap) {}
  /// Never spins.
  explicit Backoff(microseconds shortest_nap)
      : spin_(0), shortest_nap_(shortest_nap), longest_nap_(std::max(shortest_nap, kLongestNap)) {}

  void pause() const {
    const auto waited = std::chrono::duration_cast<microseconds>(Clock::now() - start_);
    if (waited < spin_) {
      std::this_thread::yield();
    } else {
      std::this_thread::sleep_for(std::clamp(waited / 16, shortest_nap_, longest_nap_));
    }
  }

 private:
  static constexpr microseconds kLongestNap{5000};
  Clock::time_point start_ = Clock::now();
  microseconds spin_, shortest_nap_, longest_nap_;
};

void wait(MPI_Request& request, Peers peers, const char* call) {
  const Backoff backoff(peers);
  for (;;) {
    int done = 0;
    check(MPI_Test(&request, &done, MPI_STATUS_IGNORE), call);
    if (done != 0) return;
    backoff.pause();
  }
}

void wait_for_all(MPI_Comm comm) {
  MPI_Request request = MPI_REQUEST_NULL;
  check(MPI_Ibarrier(comm, &request), "MPI_Ibarrier");
  wait(request, Peers::far, "MPI_Ibarrier");
}

/// A message is any number of full pieces and one shorter (perhaps empty) one.
std::vector<std::byte> receive_pieces(MPI_Comm comm, MPI_Message message, MPI_Status status) {
  std::vector<std::byte> bytes;
  for (;;) {
    int count = 0;
    check(MPI_Get_count(&status, MPI_BYTE, &count), "MPI_Get_count");
    const std::size_t begin = bytes.size();
    bytes.resize(begin + static_cast<std::size_t>(count));
    MPI_Request request = MPI_REQUEST_NULL;
    check(MPI_Imrecv(bytes.data() + begin, count, MPI_BYTE, &message, &request), "MPI_Imrecv");
    wait(request, Peers::near, "MPI_Imrecv");
    if (count < kPieceBytes) return bytes;
    const Backoff backoff(Peers::near);
    for (int found = 0; found == 0;) {
      MPI_Status next;
      check(MPI_Improbe(status.MPI_SOURCE, status.MPI_TAG, comm, &found, &message, &next), "MPI_Improbe");
      if (found != 0)
        status = next;
      else
        backoff.pause();
    }
  }
}

std::optional<std::vector<std::byte>> probe_and_receive(MPI_Comm comm, int source, int tag, MessageInfo* info,
                                                        const std::function<bool()>& stop,
                                                        microseconds shortest_nap = {}) {
  const Backoff backoff = shortest_nap.count() > 0 ? Backoff(shortest_nap) : Backoff(Peers::far);
  for (;;) {
    int found = 0;
    MPI_Message message = MPI_MESSAGE_NULL;
    MPI_Status status;
    check(MPI_Improbe(source, tag, comm, &found, &message, &status), "MPI_Improbe");
    if (found != 0) {
      if (info != nullptr) *info = {status.MPI_SOURCE, status.MPI_TAG};
      return receive_pieces(comm, message, status);
    }
    if (stop && stop()) return std::nullopt;
    backoff.pause();
  }
}

constexpr int kEveryRank = -1;

/// The sizes are known to all. Rounds of at most kStagingBytes in all, so that counts and displacements fit an int.
std::vector<std::vector<std::byte>> gather_pieces(MPI_Comm comm, int rank, std::span<const std::byte> mine,
                                                  std::span<const std::int64_t> sizes, int root,
                                                  std::vector<std::byte>& staging) {
  const std::size_t n_ranks = sizes.size();
  const bool receives = root == kEveryRank || root == rank;
  const std::int64_t chunk = std::max<std::int64_t>(1, kStagingBytes / static_cast<std::int64_t>(n_ranks));
  const std::int64_t largest = *std::max_element(sizes.begin(), sizes.end());
  std::vector<std::vector<std::byte>> result(receives ? n_ranks : 0);
  for (std::size_t i = 0; i < result.size(); ++i) result[i].reserve(static_cast<std::size_t>(sizes[i]));
  std::vector<int> counts(n_ranks), starts(n_ranks);
  std::int64_t first_round = 0;
  for (const std::int64_t size : sizes) first_round += std::min(size, chunk);
  if (receives && std::ssize(staging) < first_round) staging.resize(static_cast<std::size_t>(first_round));
  for (std::int64_t begin = 0; begin < largest; begin += chunk) {
    int total = 0;
    for (std::size_t i = 0; i < n_ranks; ++i) {
      counts[i] = static_cast<int>(std::clamp<std::int64_t>(sizes[i] - begin, 0, chunk));
      starts[i] = total;
      total += counts[i];
    }
    const int my_count = counts[static_cast<std::size_t>(rank)];
    const std::byte* my_bytes = my_count > 0 ? mine.data() + begin : nullptr;
    MPI_Request request = MPI_REQUEST_NULL;
    if (root == kEveryRank) {
      check(MPI_Iallgatherv(my_bytes, my_count, MPI_BYTE, staging.data(), counts.data(), starts.data(), MPI_BYTE, comm,
                            &request),
            "MPI_Iallgatherv");
    } else {
      check(MPI_Igatherv(my_bytes, my_count, MPI_BYTE, staging.data(), counts.data(), starts.data(), MPI_BYTE, root,
                         comm, &request),
            "MPI_Igatherv");
    }
    wait(request, Peers::near, "MPI_Igatherv");
    for (std::size_t i = 0; i < result.size(); ++i)
      result[i].insert(result[i].end(), staging.data() + starts[i], staging.data() + starts[i] + counts[i]);
  }
  return result;
}

}  // namespace

Environment::Environment(int* argc, char*** argv) {
  int initialized = 0;
  check(MPI_Initialized(&initialized), "MPI_Initialized");
  VORONOI_REQUIRE(initialized == 0, "MPI is initialized already");
  // Without a launcher Open MPI forks a daemon and looks for ssh, which a container may lack.
  if (std::getenv("OMPI_COMM_WORLD_SIZE") == nullptr && std::getenv("PMIX_RANK") == nullptr)
    setenv("OMPI_MCA_plm", "isolated", 0);
  int provided = MPI_THREAD_SINGLE;
  check(MPI_Init_thread(argc, argv, MPI_THREAD_MULTIPLE, &provided), "MPI_Init_thread");
  check(MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN), "MPI_Comm_set_errhandler");
  check(MPI_Comm_set_errhandler(MPI_COMM_SELF, MPI_ERRORS_RETURN), "MPI_Comm_set_errhandler");
  if (provided < MPI_THREAD_MULTIPLE) {
    MPI_Finalize();
    throw core::CommError("this MPI library offers no MPI_THREAD_MULTIPLE (level " + std::to_string(provided) + " of " +
                          std::to_string(MPI_THREAD_MULTIPLE) + "); use one that was built with it");
  }
}

Environment::~Environment() {
  try {
    wait_for_all(MPI_COMM_WORLD);  // MPI_Finalize waits for the slowest rank too, but with a busy core
    check(MPI_Finalize(), "MPI_Finalize");
  } catch (const std::exception& error) {
    core::log_error("{}", error.what());
  }
}

std::string library_version() {
  std::array<char, MPI_MAX_LIBRARY_VERSION_STRING> text{};
  int length = 0;
  if (MPI_Get_library_version(text.data(), &length) != MPI_SUCCESS) return "unknown";
  const std::string whole(text.data());
  return whole.substr(0, whole.find_first_of(",\n"));  // the rest tells who built it
}

namespace {
const char* launched_rank_text() {
  for (const char* name : {"OMPI_COMM_WORLD_RANK", "PMIX_RANK"})
    if (const char* rank = std::getenv(name)) return rank;
  return nullptr;
}
}  // namespace

int launched_rank() {
  const char* rank = launched_rank_text();
  return rank == nullptr ? 0 : std::atoi(rank);
}

bool is_launched() { return launched_rank_text() != nullptr; }

void Environment::abort(int exit_code) {
  std::fflush(nullptr);
  int initialized = 0, finalized = 0;
  MPI_Initialized(&initialized);
  MPI_Finalized(&finalized);
  if (initialized != 0 && finalized == 0) MPI_Abort(MPI_COMM_WORLD, exit_code);
  std::_Exit(exit_code);
}

struct Communicator::Handle {
  MPI_Comm comm = MPI_COMM_NULL;
  bool owned = false;
  int rank = 0, size = 1;
  std::vector<std::byte> staging;  ///< kept between gathers: fresh memory costs more than the transfer
  struct Posted {
    std::vector<std::byte> bytes;
    MPI_Request request = MPI_REQUEST_NULL;
  };
  std::deque<Posted> posted;                       ///< under way
  core::Counted what = core::Counted::sent_bytes;  ///< what its bytes count as

  Handle() = default;  ///< without MPI
  bool alone() const { return comm == MPI_COMM_NULL; }
  Handle(MPI_Comm communicator, bool take, core::Counted bytes = core::Counted::sent_bytes)
      : comm(communicator), owned(take), what(bytes) {
    check(MPI_Comm_set_errhandler(comm, MPI_ERRORS_RETURN), "MPI_Comm_set_errhandler");
    check(MPI_Comm_rank(comm, &rank), "MPI_Comm_rank");
    check(MPI_Comm_size(comm, &size), "MPI_Comm_size");
  }
  /// `n` bytes of this rank's go to so many others.
  void count(std::size_t n, int receivers) const {
    core::count_work(what, static_cast<double>(n) * static_cast<double>(receivers));
  }
};

Communicator Communicator::world() { return Communicator(new Handle(MPI_COMM_WORLD, false)); }

Communicator Communicator::alone() { return Communicator(new Handle); }

Communicator Communicator::duplicate() const {
  VORONOI_REQUIRE(!handle_->alone(), "a rank without MPI has nobody to talk to");
  barrier();
  MPI_Comm copy = MPI_COMM_NULL;
  check(MPI_Comm_dup(handle_->comm, &copy), "MPI_Comm_dup");
  return Communicator(new Handle(copy, true, core::Counted::scheduling_bytes));
}

Communicator Communicator::subgroup(std::span<const int> ranks, int tag) const {
  check_tag(tag);
  VORONOI_REQUIRE(!handle_->alone(), "a rank without MPI has nobody to talk to");
  VORONOI_REQUIRE(!ranks.empty() && std::is_sorted(ranks.begin(), ranks.end()), "ranks of a subgroup must rise");
  MPI_Group all = MPI_GROUP_NULL, some = MPI_GROUP_NULL;
  MPI_Comm comm = MPI_COMM_NULL;
  check(MPI_Comm_group(handle_->comm, &all), "MPI_Comm_group");
  int code = MPI_Group_incl(all, static_cast<int>(ranks.size()), ranks.data(), &some);
  MPI_Group_free(&all);
  check(code, "MPI_Group_incl");
  code = MPI_Comm_create_group(handle_->comm, some, tag, &comm);
  MPI_Group_free(&some);
  check(code, "MPI_Comm_create_group");
  VORONOI_REQUIRE(comm != MPI_COMM_NULL, "rank " + std::to_string(handle_->rank) + " is no member of the subgroup");
  return Communicator(new Handle(comm, true, core::Counted::team_bytes));
}

Communicator::~Communicator() {
  if (handle_ == nullptr) return;
  int finalized = 0;
  for (Handle::Posted& message : handle_->posted) try {
      wait(message.request, Peers::far, "MPI_Isend");
    } catch (const std::exception& error) {
      core::log_error("{}", error.what());
    }
  if (handle_->owned && MPI_Finalized(&finalized) == MPI_SUCCESS && finalized == 0) MPI_Comm_free(&handle_->comm);
  delete handle_;
}

Communicator::Communicator(Communicator&& other) noexcept : handle_(std::exchange(other.handle_, nullptr)) {}

Communicator& Communicator::operator=(Communicator&& other) noexcept {
  std::swap(handle_, other.handle_);
  return *this;
}

int Communicator::rank() const { return handle_->rank; }
int Communicator::size() const { return handle_->size; }
void Communicator::barrier() const {
  if (!handle_->alone()) wait_for_all(handle_->comm);
}

void Communicator::broadcast(std::span<std::byte> bytes, int root) const {
  if (handle_->alone()) return;
  if (rank() == root) handle_->count(bytes.size(), size() - 1);
  if (bytes.size() > kEagerBytes) barrier();  // afterwards all are there, and the data may be moved without naps
  const auto n = static_cast<std::int64_t>(bytes.size());
  for (std::int64_t begin = 0; begin < n; begin += kPieceBytes) {
    MPI_Request request = MPI_REQUEST_NULL;
    check(MPI_Ibcast(bytes.data() + begin, static_cast<int>(std::min(kPieceBytes, n - begin)), MPI_BYTE, root,
                     handle_->comm, &request),
          "MPI_Ibcast");
    wait(request, bytes.size() > kEagerBytes ? Peers::near : Peers::far, "MPI_Ibcast");
  }
}

std::string Communicator::broadcast(const std::string& text, int root) const {
  auto size = static_cast<std::int64_t>(text.size());
  broadcast(std::as_writable_bytes(std::span(&size, 1)), root);
  std::string result = rank() == root ? text : std::string(static_cast<std::size_t>(size), '\0');
  broadcast(std::as_writable_bytes(std::span(result)), root);
  return result;
}

std::vector<std::int64_t> Communicator::all_gather_value(std::int64_t mine) const {
  if (handle_->alone()) return {mine};
  std::vector<std::int64_t> values(static_cast<std::size_t>(size()));
  MPI_Request request = MPI_REQUEST_NULL;
  check(MPI_Iallgather(&mine, 1, MPI_INT64_T, values.data(), 1, MPI_INT64_T, handle_->comm, &request),
        "MPI_Iallgather");
  wait(request, Peers::far, "MPI_Iallgather");
  return values;
}

std::vector<std::vector<std::byte>> Communicator::all_gather(std::span<const std::byte> mine) const {
  return all_gather(mine, all_gather_value(static_cast<std::int64_t>(mine.size())));
}

std::vector<std::vector<std::byte>> Communicator::all_gather(std::span<const std::byte> mine,
                                                             std::span<const std::int64_t> sizes) const {
  VORONOI_REQUIRE(sizes.size() == static_cast<std::size_t>(size()) &&
                      sizes[static_cast<std::size_t>(rank())] == static_cast<std::int64_t>(mine.size()),
                  "sizes of an all_gather");
  if (handle_->alone()) return {{mine.begin(), mine.end()}};
  handle_->count(mine.size(), size() - 1);
  return gather_pieces(handle_->comm, rank(), mine, sizes, kEveryRank, handle_->staging);
}

std::vector<std::vector<std::byte>> Communicator::gather(std::span<const std::byte> mine, int root) const {
  VORONOI_REQUIRE(root >= 0 && root < size(), "root of a gather");
  if (handle_->alone()) return {{mine.begin(), mine.end()}};
  if (rank() != root) handle_->count(mine.size(), 1);
  return gather_pieces(handle_->comm, rank(), mine, all_gather_value(static_cast<std::int64_t>(mine.size())), root,
                       handle_->staging);
}

std::int64_t Communicator::all_max(std::int64_t value) const {
  if (handle_->alone()) return value;
  std::int64_t result = 0;
  MPI_Request request = MPI_REQUEST_NULL;
  check(MPI_Iallreduce(&value, &result, 1, MPI_INT64_T, MPI_MAX, handle_->comm, &request), "MPI_Iallreduce");
  wait(request, Peers::far, "MPI_Iallreduce");
  return result;
}

void Communicator::send(std::span<const std::byte> bytes, int destination, int tag) const {
  check_tag(tag);
  VORONOI_REQUIRE(!handle_->alone(), "a rank without MPI has nobody to talk to");
  handle_->count(bytes.size(), 1);
  const auto n = static_cast<std::int64_t>(bytes.size());
  std::int64_t begin = 0, piece = 0;
  do {
    piece = std::min(kPieceBytes, n - begin);
    MPI_Request request = MPI_REQUEST_NULL;
    check(MPI_Isend(bytes.data() + begin, static_cast<int>(piece), MPI_BYTE, destination, tag, handle_->comm, &request),
          "MPI_Isend");
    // Past the first piece the receiver is known to be there.
    wait(request, begin > 0 ? Peers::near : Peers::far, "MPI_Isend");
    begin += piece;
  } while (piece == kPieceBytes);
}

void Communicator::post(std::vector<std::byte> bytes, int destination, int tag) const {
  if (bytes.size() > kEagerBytes) {
    send(bytes, destination, tag);
    return;
  }
  check_tag(tag);
  handle_->count(bytes.size(), 1);
  std::deque<Handle::Posted>& posted = handle_->posted;
  for (int done = 1; !posted.empty() && done != 0;) {
    check(MPI_Test(&posted.front().request, &done, MPI_STATUS_IGNORE), "MPI_Test");
    if (done != 0) posted.pop_front();
  }
  Handle::Posted& message = posted.emplace_back();
  message.bytes = std::move(bytes);
  check(MPI_Isend(message.bytes.data(), static_cast<int>(message.bytes.size()), MPI_BYTE, destination, tag,
                  handle_->comm, &message.request),
        "MPI_Isend");
}

std::vector<std::byte> Communicator::receive(int source, int tag) const {
  check_tag(tag);
  return *probe_and_receive(handle_->comm, source, tag, nullptr, nullptr);
}

std::vector<std::byte> Communicator::exchange(std::span<const std::byte> mine, int to, int from, bool expects,
                                              int tag) const {
  check_tag(tag);
  VORONOI_REQUIRE(!handle_->alone(), "a rank without MPI has nobody to talk to");
  handle_->count(mine.size(), 1);
  const auto n = static_cast<std::int64_t>(mine.size());
  std::vector<MPI_Request> requests;
  // As send() cuts it: any number of full pieces and one shorter one.
  for (std::int64_t begin = 0; n > 0 && begin <= n; begin += kPieceBytes)
    check(MPI_Isend(mine.data() + begin, static_cast<int>(std::min(kPieceBytes, n - begin)), MPI_BYTE, to, tag,
                    handle_->comm, &requests.emplace_back(MPI_REQUEST_NULL)),
          "MPI_Isend");
  std::vector<std::byte> theirs;
  if (expects) theirs = receive(from, tag);
  for (MPI_Request& request : requests) wait(request, Peers::near, "MPI_Isend");
  return theirs;
}

std::optional<std::vector<std::byte>> Communicator::receive_any(MessageInfo& info, const std::function<bool()>& stop,
                                                                microseconds shortest_nap) const {
  return probe_and_receive(handle_->comm, MPI_ANY_SOURCE, MPI_ANY_TAG, &info, stop, shortest_nap);
}

LocalRanks local_ranks(const Communicator& communicator) {
  if (communicator.handle_->alone()) return {};
  communicator.barrier();
  MPI_Comm local = MPI_COMM_NULL;
  LocalRanks result;
  check(
      MPI_Comm_split_type(communicator.handle_->comm, MPI_COMM_TYPE_SHARED, communicator.rank(), MPI_INFO_NULL, &local),
      "MPI_Comm_split_type");
  const int rank_code = MPI_Comm_rank(local, &result.rank);
  const int size_code = MPI_Comm_size(local, &result.size);
  MPI_Comm_free(&local);
  check(rank_code, "MPI_Comm_rank");
  check(size_code, "MPI_Comm_size");
  return result;
}

}  // namespace voronoi::comm
