#include "tests/emulation/nccl.h"

#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <map>
#include <string>
#include <thread>
#include <utility>
#include <vector>

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

namespace {

struct Sent {
  ncclComm_t group;
  int peer;
  std::vector<char> bytes;
};
struct Received {
  ncclComm_t group;
  int peer;
  void* values;
  std::size_t size;
};

bool is_grouped = false;
std::vector<Sent> sends;
std::vector<Received> receives;

bool send_now(const Sent& what) {
  if (!what.group->to.contains(what.peer)) what.group->to[what.peer] = connect_to(*what.group, what.peer);
  return write_all(what.group->to[what.peer], what.bytes.data(), what.bytes.size());
}

bool receive_now(const Received& what) {
  EmulatedGroup& group = *what.group;
  while (!group.from.contains(what.peer)) {
    const int socket = ::accept(group.listener, nullptr, nullptr);
    int sender = -1;
    if (socket < 0 || !read_all(socket, &sender, sizeof sender)) return false;
    group.from[sender] = socket;
  }
  const voronoi::emulation::AccessWindow window;
  return read_all(group.from[what.peer], what.values, what.size);
}

}  // namespace

ncclResult_t ncclGroupStart() {
  is_grouped = true;
  return ncclSuccess;
}

ncclResult_t ncclGroupEnd() {
  is_grouped = false;
  // What a peer does not read yet must not keep this rank from reading.
  bool sent = true, received = true;
  std::thread sender([&] {
    for (const Sent& what : sends) sent = send_now(what) && sent;
  });
  for (const Received& what : receives) received = receive_now(what) && received;
  sender.join();
  sends.clear();
  receives.clear();
  return sent && received ? ncclSuccess : ncclSystemError;
}

ncclResult_t ncclSend(const void* values, std::size_t n, ncclDataType_t, int peer, ncclComm_t group,
                      cudaStream_t stream) {
  if (!is_peer(*group, peer)) return ncclInvalidArgument;
  voronoi::emulation::finish_pending(stream);
  Sent what{group, peer, {}};
  {
    const voronoi::emulation::AccessWindow window;
    const char* bytes = static_cast<const char*>(values);
    what.bytes.assign(bytes, bytes + n * sizeof(double));
  }
  if (!is_grouped) return send_now(what) ? ncclSuccess : ncclSystemError;
  sends.push_back(std::move(what));
  return ncclSuccess;
}

ncclResult_t ncclRecv(void* values, std::size_t n, ncclDataType_t, int peer, ncclComm_t group, cudaStream_t stream) {
  if (!is_peer(*group, peer)) return ncclInvalidArgument;
  voronoi::emulation::finish_pending(stream);
  const Received what{group, peer, values, n * sizeof(double)};
  if (!is_grouped) return receive_now(what) ? ncclSuccess : ncclSystemError;
  receives.push_back(what);
  return ncclSuccess;
}
