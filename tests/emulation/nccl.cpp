#include "tests/emulation/nccl.h"

#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <map>
#include <string>

#include "tests/emulation/emulator.h"
#include "tests/emulation/memory.h"

// Rank r listens at <folder>/<r>; who sends connects there and says its own rank first.
struct EmulatedGroup {
  std::string folder;
  int rank = 0, n_ranks = 0, listener = -1;
  std::map<int, int> to, from;  // peer -> socket
};

namespace {

sockaddr_un address_of(const EmulatedGroup& group, int rank) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  const std::string path = group.folder + "/" + std::to_string(rank);
  std::strncpy(address.sun_path, path.c_str(), sizeof address.sun_path - 1);
  return address;
}

bool write_all(int socket, const void* data, std::size_t size) {
  for (const char* at = static_cast<const char*>(data); size > 0;) {
    const ssize_t n = ::send(socket, at, size, MSG_NOSIGNAL);
    if (n <= 0) return false;
    at += n;
    size -= static_cast<std::size_t>(n);
  }
  return true;
}

bool read_all(int socket, void* data, std::size_t size) {
  for (char* at = static_cast<char*>(data); size > 0;) {
    const ssize_t n = ::recv(socket, at, size, 0);
    if (n <= 0) return false;
    at += n;
    size -= static_cast<std::size_t>(n);
  }
  return true;
}

int connect_to(EmulatedGroup& group, int peer) {
  const sockaddr_un address = address_of(group, peer);
  constexpr int kTries = 3000, kPauseMicroseconds = 10000;  // half a minute for the peer to join
  for (int i = 0; i < kTries; ++i) {
    const int socket = ::socket(AF_UNIX, SOCK_STREAM, 0);
    if (::connect(socket, reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0) {
      if (write_all(socket, &group.rank, sizeof group.rank)) return socket;
    }
    ::close(socket);
    ::usleep(kPauseMicroseconds);
  }
  return -1;
}

bool is_peer(const EmulatedGroup& group, int peer) { return peer >= 0 && peer < group.n_ranks && peer != group.rank; }

}  // namespace

const char* ncclGetErrorString(ncclResult_t result) {
  return result == ncclSuccess ? "no error" : result == ncclSystemError ? "system error" : "invalid argument";
}

ncclResult_t ncclGetUniqueId(ncclUniqueId* id) {
  std::memset(id, 0, sizeof *id);
  std::strcpy(id->internal, "/tmp/emulated-group-XXXXXX");
  return ::mkdtemp(id->internal) != nullptr ? ncclSuccess : ncclSystemError;
}

ncclResult_t ncclCommInitRank(ncclComm_t* result, int n_ranks, ncclUniqueId id, int rank) {
  auto* group = new EmulatedGroup{id.internal, rank, n_ranks, ::socket(AF_UNIX, SOCK_STREAM, 0), {}, {}};
  *result = group;
  const sockaddr_un address = address_of(*group, rank);
  if (::bind(group->listener, reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) return ncclSystemError;
  return ::listen(group->listener, n_ranks) == 0 ? ncclSuccess : ncclSystemError;
}

ncclResult_t ncclCommDestroy(ncclComm_t group) {
  for (const auto& [peer, socket] : group->to) ::close(socket);
  for (const auto& [peer, socket] : group->from) ::close(socket);
  ::close(group->listener);
  ::unlink(address_of(*group, group->rank).sun_path);
  ::rmdir(group->folder.c_str());  // done by the last rank
  delete group;
  return ncclSuccess;
}

ncclResult_t ncclSend(const void* values, std::size_t n, ncclDataType_t, int peer, ncclComm_t group,
                      cudaStream_t stream) {
  if (!is_peer(*group, peer)) return ncclInvalidArgument;
  voronoi::emulation::finish_pending(stream);
  if (!group->to.contains(peer)) group->to[peer] = connect_to(*group, peer);
  const voronoi::emulation::AccessWindow window;
  return write_all(group->to[peer], values, n * sizeof(double)) ? ncclSuccess : ncclSystemError;
}

ncclResult_t ncclRecv(void* values, std::size_t n, ncclDataType_t, int peer, ncclComm_t group, cudaStream_t stream) {
  if (!is_peer(*group, peer)) return ncclInvalidArgument;
  voronoi::emulation::finish_pending(stream);
  while (!group->from.contains(peer)) {
    const int socket = ::accept(group->listener, nullptr, nullptr);
    int sender = -1;
    if (socket < 0 || !read_all(socket, &sender, sizeof sender)) return ncclSystemError;
    group->from[sender] = socket;
  }
  const voronoi::emulation::AccessWindow window;
  return read_all(group->from[peer], values, n * sizeof(double)) ? ncclSuccess : ncclSystemError;
}
