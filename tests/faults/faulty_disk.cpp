// A preloaded library that makes chosen file calls of a process fail, fall short or be its last: the disk of the fault
// tests.
//
//   VORONOI_FAULT="CALLS PATH N ACTION", e.g. "write,pwrite layers/ 3+ ENOSPC"; several are divided by ';'
//     CALLS: of open create read pread write pwrite fsync rename unlink truncate mkdir link. "create" is an open that
//       may write, and such an open is of both kinds. "any": all that change files, opens left out.
//     PATH: a part of the path that the call is about (either path of a rename); "*" for every path.
//     N: the Nth such call of the process; "N+": that one and all later ones.
//     ACTION:
//       EIO, ENOSPC, EDQUOT, EROFS, EACCES, ENOENT, EINTR: the call fails with it;
//       short: half of the bytes go through;
//       kill: SIGKILL instead of the call; done-kill: SIGKILL after it; torn-kill: SIGKILL after half of the bytes;
//       hold: the thread waits before the call until the file of VORONOI_FAULT_HOLD is there;
//       count: nothing happens.
//   VORONOI_FAULT_RANK=R: only on that rank of the job.
//   VORONOI_FAULT_LOG=FILE: one line for every fault that struck; with "count" one when the process ends: "count
//   <number
//     of calls> CALLS PATH".
//   VORONOI_FAULT_ORDER=PATH: a file there that is renamed before what was written to it is synced ends the process
//   with
//     a message and exit code 97, and so does a line for the journal while the directory of a rename is not synced that
//     the same thread made or that the line is about.
// What the C library does inside itself (stdio, opendir, mmap) is not seen.
#include <dlfcn.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <list>
#include <map>
#include <mutex>
#include <set>
#include <sstream>
#include <string>
#include <string_view>
#include <utility>

namespace {

struct Fault {
  std::set<std::string> calls;
  std::string names, path, action;
  long n = 0;
  bool and_later = false;
  std::atomic<long> seen{0};
};

const std::map<std::string, int> kErrors{{"EIO", EIO},       {"ENOSPC", ENOSPC}, {"EDQUOT", EDQUOT}, {"EROFS", EROFS},
                                         {"EACCES", EACCES}, {"ENOENT", ENOENT}, {"EINTR", EINTR}};

void say(const char* file, const std::string& line) {
  if (file == nullptr) return;
  const long fd = ::syscall(SYS_openat, AT_FDCWD, file, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
  if (fd < 0) return;
  ::syscall(SYS_write, fd, line.data(), line.size());
  ::syscall(SYS_close, fd);
}

class Disk {
 public:
  Disk() {
    const char* rank = std::getenv("VORONOI_FAULT_RANK");
    const char* own = std::getenv("OMPI_COMM_WORLD_RANK");
    if (const char* order = std::getenv("VORONOI_FAULT_ORDER")) order_ = order;
    log_ = std::getenv("VORONOI_FAULT_LOG");
    const char* text = std::getenv("VORONOI_FAULT");
    if (text == nullptr || (rank != nullptr && (own == nullptr || std::strcmp(rank, own) != 0))) return;
    std::istringstream all(text);
    for (std::string one; std::getline(all, one, ';');) parse(one);
  }

  void tell_counts() const {
    for (const Fault& fault : faults_)
      if (fault.action == "count")
        say(log_, "count " + std::to_string(fault.seen.load()) + " " + fault.names + " " + fault.path + "\n");
  }

  /// The action that strikes this call, or nothing.
  const Fault* strike(const char* call, const std::string& path, const std::string& other = {}) {
    for (Fault& fault : faults_) {
      if (!fault.calls.contains(call) && !(fault.calls.contains("any") && changes(call))) continue;
      if (fault.path != "*" && path.find(fault.path) == std::string::npos &&
          other.find(fault.path) == std::string::npos)
        continue;
      const long n = ++fault.seen;
      if (fault.action == "count" || !(n == fault.n || (fault.and_later && n > fault.n))) continue;
      say(log_, std::string(call) + " " + path + " " + std::to_string(n) + " " + fault.action + "\n");
      return &fault;
    }
    return nullptr;
  }

  bool watches(const std::string& path) const { return !order_.empty() && path.find(order_) != std::string::npos; }

  void written(const std::string& path, int fd, std::string_view bytes) {
    if (!watches(path)) return;
    const std::lock_guard lock(mutex_);
    if (path.find("journal") != std::string::npos)
      for (const auto& [directory, renames] : unsynced_directories_)
        for (const Rename& rename : renames)
          if (rename.thread == ::gettid() || bytes.find("\"" + rename.name + "\"") != std::string_view::npos)
            violated("a journal record is written while the rename to " + rename.path + " is not synced");
    unsynced_.insert(identity(fd));
  }

  void synced(int fd) {
    if (order_.empty()) return;
    const std::lock_guard lock(mutex_);
    unsynced_.erase(identity(fd));
    unsynced_directories_.erase(identity(fd));
  }

  void renaming(const char* from) {
    struct stat status {};
    if (!watches(from) || ::stat(from, &status) != 0) return;
    const std::lock_guard lock(mutex_);
    if (unsynced_.contains({status.st_dev, status.st_ino}))
      violated(std::string(from) + " is renamed before it is synced");
  }

  void renamed(const std::string& to) {
    if (!watches(to) || to.find("/staging/") != std::string::npos) return;  // nobody reads there after a crash
    const std::string parent = to.substr(0, to.rfind('/')), file = to.substr(parent.size() + 1);
    struct stat status {};
    if (::stat(parent.c_str(), &status) != 0) return;
    const std::lock_guard lock(mutex_);
    unsynced_directories_[{status.st_dev, status.st_ino}].push_back({to, file.substr(0, file.rfind('.')), ::gettid()});
  }

 private:
  using Identity = std::pair<dev_t, ino_t>;

  struct Rename {
    std::string path, name;  ///< without its ending: as records name it
    pid_t thread;
  };

  static bool changes(std::string_view call) {
    return call != "open" && call != "create" && call != "read" && call != "pread";
  }

  static Identity identity(int fd) {
    struct stat status {};
    ::fstat(fd, &status);
    return {status.st_dev, status.st_ino};
  }

  [[noreturn]] static void violated(const std::string& what) {
    // Not abort(): MPI's handler writes and would come back here.
    const std::string line = "faulty_disk: order: " + what + "\n";
    ::syscall(SYS_write, STDERR_FILENO, line.data(), line.size());
    ::_exit(97);
  }

  void parse(const std::string& text) {
    std::istringstream words(text);
    std::string n;
    Fault& fault = faults_.emplace_back();
    words >> fault.names >> fault.path >> n >> fault.action;
    fault.n = std::atol(n.c_str());
    fault.and_later = n.ends_with('+');
    std::istringstream names(fault.names);
    for (std::string name; std::getline(names, name, ',');) fault.calls.insert(name);
    static const std::set<std::string> kOther{"short", "kill", "done-kill", "torn-kill", "hold", "count"};
    if (fault.n < 1 || (!kOther.contains(fault.action) && !kErrors.contains(fault.action))) {
      std::fprintf(stderr, "faulty_disk: cannot read \"%s\"\n", text.c_str());
      ::_exit(99);
    }
  }

  std::list<Fault> faults_;
  std::string order_;
  const char* log_ = nullptr;
  std::mutex mutex_;
  std::set<Identity> unsynced_;
  std::map<Identity, std::list<Rename>> unsynced_directories_;
};

Disk& disk() {
  static Disk* const the = new Disk;  // lives on while other libraries end
  return *the;
}

__attribute__((destructor)) void count_calls() { disk().tell_counts(); }

template <class Function>
Function* real(const char* name) {
  return reinterpret_cast<Function*>(::dlsym(RTLD_NEXT, name));
}

std::string path_of(int fd) {
  char path[4096];
  const ssize_t n = ::readlink(("/proc/self/fd/" + std::to_string(fd)).c_str(), path, sizeof path);
  return n > 0 ? std::string(path, static_cast<std::size_t>(n)) : std::string();
}

[[noreturn]] void die() {
  ::kill(::getpid(), SIGKILL);
  while (true) ::pause();
}

/// `call(size)` does the real call on so many bytes; a call without bytes has size 0.
template <class Call>
auto through(const Fault* fault, std::size_t size, Call call) -> decltype(call(size)) {
  if (fault == nullptr) return call(size);
  if (const auto error = kErrors.find(fault->action); error != kErrors.end()) {
    errno = error->second;
    return -1;
  }
  if (fault->action == "kill") die();
  if (fault->action == "hold") {
    const char* file = std::getenv("VORONOI_FAULT_HOLD");
    while (file != nullptr && ::access(file, F_OK) != 0) ::usleep(10000);
    return call(size);
  }
  const bool half = fault->action == "short" || fault->action == "torn-kill";
  const auto result = call(half && size > 1 ? size / 2 : size);
  if (fault->action != "short") die();
  return result;
}

ssize_t write_through(const char* name, int fd, const void* bytes, std::size_t size, auto call) {
  const int before = errno;
  const std::string path = path_of(fd);
  disk().written(path, fd, {static_cast<const char*>(bytes), size});
  const Fault* fault = disk().strike(name, path);
  errno = before;
  return through(fault, size, call);
}

template <class Call>
auto on_path(const char* name, const char* path, Call call) {
  return through(disk().strike(name, path), 0, [&](std::size_t) { return call(); });
}

int open_through(const char* name, int at, const char* path, int flags, mode_t mode) {
  const Fault* fault = disk().strike("open", path);
  if (fault == nullptr && (flags & (O_CREAT | O_TRUNC | O_WRONLY | O_RDWR)) != 0) fault = disk().strike("create", path);
  return through(fault, 0, [&](std::size_t) {
    // openat is what glibc's own open is.
    return real<int(int, const char*, int, ...)>(name)(at, path, flags, mode);
  });
}

int rename_through(const char* from, const char* to, auto call) {
  disk().renaming(from);
  const Fault* fault = disk().strike("rename", from, to);
  const int result = through(fault, 0, [&](std::size_t) { return call(); });
  if (result == 0) disk().renamed(to);
  return result;
}

mode_t mode_of(int flags, va_list arguments) {
  return (flags & (O_CREAT | O_TMPFILE)) != 0 ? static_cast<mode_t>(va_arg(arguments, unsigned)) : 0;
}

}  // namespace

// The names that programs and the C++ library call; with large files each has a second name.
extern "C" {

ssize_t write(int fd, const void* bytes, size_t size) {
  return write_through("write", fd, bytes, size,
                       [&](size_t n) { return real<ssize_t(int, const void*, size_t)>("write")(fd, bytes, n); });
}
ssize_t pwrite(int fd, const void* bytes, size_t size, off_t offset) {
  return write_through("pwrite", fd, bytes, size, [&](size_t n) {
    return real<ssize_t(int, const void*, size_t, off_t)>("pwrite")(fd, bytes, n, offset);
  });
}
ssize_t pwrite64(int fd, const void* bytes, size_t size, off64_t offset) { return pwrite(fd, bytes, size, offset); }

ssize_t read(int fd, void* bytes, size_t size) {
  return through(disk().strike("read", path_of(fd)), size,
                 [&](size_t n) { return real<ssize_t(int, void*, size_t)>("read")(fd, bytes, n); });
}
ssize_t pread(int fd, void* bytes, size_t size, off_t offset) {
  return through(disk().strike("pread", path_of(fd)), size,
                 [&](size_t n) { return real<ssize_t(int, void*, size_t, off_t)>("pread")(fd, bytes, n, offset); });
}
ssize_t pread64(int fd, void* bytes, size_t size, off64_t offset) { return pread(fd, bytes, size, offset); }

int fsync(int fd) {
  const int result =
      through(disk().strike("fsync", path_of(fd)), 0, [&](size_t) { return real<int(int)>("fsync")(fd); });
  if (result == 0) disk().synced(fd);
  return result;
}
int ftruncate(int fd, off_t size) {
  return static_cast<int>(
      write_through("truncate", fd, "", 0, [&](size_t) { return real<int(int, off_t)>("ftruncate")(fd, size); }));
}
int ftruncate64(int fd, off64_t size) { return ftruncate(fd, size); }

int open(const char* path, int flags, ...) {
  va_list arguments;
  va_start(arguments, flags);
  const mode_t mode = mode_of(flags, arguments);
  va_end(arguments);
  return open_through("openat", AT_FDCWD, path, flags, mode);
}
int open64(const char* path, int flags, ...) {
  va_list arguments;
  va_start(arguments, flags);
  const mode_t mode = mode_of(flags, arguments);
  va_end(arguments);
  return open_through("openat64", AT_FDCWD, path, flags, mode);
}

int rename(const char* from, const char* to) {
  return rename_through(from, to, [&] { return real<int(const char*, const char*)>("rename")(from, to); });
}
int link(const char* from, const char* to) {
  return on_path("link", to, [&] { return real<int(const char*, const char*)>("link")(from, to); });
}
int unlink(const char* path) {
  return on_path("unlink", path, [&] { return real<int(const char*)>("unlink")(path); });
}
int rmdir(const char* path) {
  return on_path("unlink", path, [&] { return real<int(const char*)>("rmdir")(path); });
}
int remove(const char* path) {
  return on_path("unlink", path, [&] { return real<int(const char*)>("remove")(path); });
}
int mkdir(const char* path, mode_t mode) {
  return on_path("mkdir", path, [&] { return real<int(const char*, mode_t)>("mkdir")(path, mode); });
}
char* mkdtemp(char* pattern) {
  char* made = nullptr;
  on_path("mkdir", pattern, [&] {
    made = real<char*(char*)>("mkdtemp")(pattern);
    return made != nullptr ? 0 : -1;
  });
  return made;
}

}  // extern "C"
