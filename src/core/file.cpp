#include "core/file.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <csignal>
#include <cstring>
#include <random>
#include <utility>
#include <vector>

#include "core/error.h"
#include "core/stop.h"
#include "core/whereabouts.h"

namespace voronoi::core {
namespace {

std::string_view remedy(int error) {
  switch (error) {
    case ENOSPC:
    case EDQUOT:
      return "; free some space and run the same command again";
    case EACCES:
    case EPERM:
    case EROFS:
      return "; check its permissions or choose another place";
    case ENOENT:
    case ENOTDIR:
      return "; check the path";
    case EXDEV:
      return "; a run directory must lie on one file system as a whole";
    case EIO:
    case ESTALE:
      return "; the disk or its server fails: run the same command again when it is well, or choose another place";
    case EMFILE:
    case ENFILE:
      return "; allow more open files (ulimit -n)";
    default:
      return "";
  }
}

/// A disk or the way to a file server that fails: another node may have none of it.
bool is_of_the_node(int error) {
  switch (error) {
    case EIO:
    case ESTALE:
    case EREMOTEIO:
    case ENODEV:
    case ENXIO:
    case ENOTCONN:
    case ESHUTDOWN:
    case ETIMEDOUT:
    case EHOSTDOWN:
    case EHOSTUNREACH:
      return true;
    default:
      return false;
  }
}

[[noreturn]] void fail(const std::string& path, const char* what, int error) { throw system_error(path, what, error); }

class Descriptor {
 public:
  Descriptor(const std::string& path, int flags, mode_t mode, const char* what) {
    do fd_ = ::open(path.c_str(), flags | O_CLOEXEC, mode);
    while (fd_ < 0 && errno == EINTR);
    if (fd_ < 0) fail(path, what, errno);
  }
  ~Descriptor() {
    if (fd_ >= 0) ::close(fd_);
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  int get() const { return fd_; }
  int release() { return std::exchange(fd_, -1); }

 private:
  int fd_ = -1;
};

/// An open regular file and its size.
struct Source {
  explicit Source(const std::string& path)
      // Non-blocking: opening a pipe that nobody writes to would wait for ever; on regular files the flag has no
      // effect.
      : file(path, O_RDONLY | O_NONBLOCK, 0, "open") {
    struct stat status {};
    if (::fstat(file.get(), &status) != 0) fail(path, "stat", errno);
    if (!S_ISREG(status.st_mode)) throw StoreError(path + ": is not a regular file");
    size = static_cast<std::size_t>(status.st_size);
  }
  Descriptor file;
  std::size_t size = 0;
};

/// Fills `out` unless the file ends before; returns the bytes read.
std::size_t read_full(const Descriptor& file, const std::string& path, std::span<std::byte> out) {
  std::size_t done = 0;
  while (done < out.size()) {
    const ssize_t n = ::read(file.get(), out.data() + done, out.size() - done);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) fail(path, "read", errno);
    if (n == 0) break;  // cut by somebody meanwhile
    done += static_cast<std::size_t>(n);
  }
  return done;
}

template <class Bytes>
Bytes read_whole(const std::string& path, std::size_t max_bytes) {
  const Source source(path);
  if (source.size > max_bytes)
    throw FormatError(path, "has " + std::to_string(source.size) + " bytes, more than the " +
                                std::to_string(max_bytes) + " that are read");
  Bytes bytes(source.size, {});
  bytes.resize(read_full(source.file, path, std::as_writable_bytes(std::span(bytes))));
  return bytes;
}

}  // namespace

StoreError system_error(const std::filesystem::path& path, std::string_view what, int error) {
  return StoreError(
      path.string() + ": cannot " + std::string(what) + ": " + std::strerror(error) + std::string(remedy(error)),
      is_of_the_node(error) ? ExitCode::node : ExitCode::system);
}

int write_fully(int descriptor, std::span<const std::byte> bytes, std::int64_t offset) {
  for (std::size_t done = 0; done < bytes.size();) {
    const std::byte* rest = bytes.data() + done;
    const std::size_t size = bytes.size() - done;
    const ssize_t n = offset < 0
                          ? ::write(descriptor, rest, size)
                          : ::pwrite(descriptor, rest, size, static_cast<off_t>(offset) + static_cast<off_t>(done));
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return n < 0 ? errno : EIO;
    done += static_cast<std::size_t>(n);
  }
  return 0;
}

int sync_fully(int descriptor) {
  int result = 0;
  do result = ::fsync(descriptor);
  while (result != 0 && errno == EINTR);
  return result != 0 ? errno : 0;
}

int open_for_reading(const std::string& path) {
  Source source(path);
  return source.file.release();
}

void read_pieces(const std::filesystem::path& path, const std::function<void(std::span<const std::byte>)>& take,
                 std::size_t piece_bytes) {
  const std::string name = path.string();
  const Source source(name);
  std::vector<std::byte> piece(std::min(piece_bytes, source.size));
  for (std::size_t left = source.size; left > 0;) {
    const std::size_t n = read_full(source.file, name, std::span(piece).first(std::min(left, piece.size())));
    if (n == 0) return;
    take(std::span<const std::byte>(piece).first(n));
    left -= n;
  }
}

std::vector<std::byte> read_file(const std::filesystem::path& path, std::size_t max_bytes) {
  return read_whole<std::vector<std::byte>>(path.string(), max_bytes);
}

std::string read_text_file(const std::filesystem::path& path, std::size_t max_bytes) {
  return read_whole<std::string>(path.string(), max_bytes);
}

std::string read_pipe(const std::filesystem::path& path, std::size_t max_bytes) {
  constexpr int kLookMilliseconds = 200;
  constexpr std::size_t kPieceBytes = std::size_t{1} << 20;
  const std::string name = path.string();
  const Descriptor pipe(name, O_RDONLY | O_NONBLOCK, 0, "open");
  std::string text;
  std::size_t size = 0;
  for (;;) {
    if (stop_requested()) throw StopRequested();
    // Without a writer so far there is nothing to read, and no end either.
    pollfd wanted{pipe.get(), POLLIN, 0};
    const int ready = ::poll(&wanted, 1, kLookMilliseconds);
    if (ready < 0 && errno != EINTR) fail(name, "read", errno);
    if (ready <= 0) continue;
    text.resize(size + kPieceBytes);
    const ssize_t n = ::read(pipe.get(), text.data() + size, kPieceBytes);
    if (n < 0 && errno != EINTR && errno != EAGAIN) fail(name, "read", errno);
    if (n == 0) break;
    if (n > 0) size += static_cast<std::size_t>(n);
    if (size > max_bytes)
      throw FormatError(name, "gives more than the " + std::to_string(max_bytes) + " bytes that are read");
  }
  text.resize(size);
  return text;
}

void publish_file(const std::filesystem::path& path, std::span<const std::byte> bytes,
                  const std::filesystem::path& temporary_path) {
  const std::string temporary = temporary_path.string();
  Descriptor file(temporary, O_WRONLY | O_CREAT | O_TRUNC, 0644, "create");
  int error = write_fully(file.get(), bytes);
  if (error == 0) error = sync_fully(file.get());
  if (::close(file.release()) != 0 && error == 0) error = errno;
  if (error == 0 && ::rename(temporary.c_str(), path.c_str()) != 0) error = errno;
  if (error != 0) {
    ::unlink(temporary.c_str());
    fail(path.string(), "write", error);
  }
  sync_directory(path.parent_path());
}

namespace {

/// Files whose names are `prefix`, the number of a process of this host that is gone, and anything behind a dot.
void remove_abandoned(const std::filesystem::path& directory, const std::string& prefix) {
  std::error_code error;
  std::vector<std::filesystem::path> left;
  for (auto entry = std::filesystem::directory_iterator(directory, error);
       !error && entry != std::filesystem::directory_iterator(); entry.increment(error)) {
    const std::string name = entry->path().filename().string();
    if (!name.starts_with(prefix)) continue;
    pid_t writer = 0;
    const char* end = name.data() + name.size();
    const auto [rest, problem] = std::from_chars(name.data() + prefix.size(), end, writer);
    if (problem != std::errc() || rest == end || *rest != '.' || writer <= 0) continue;
    if (::kill(writer, 0) != 0 && errno == ESRCH) left.push_back(entry->path());
  }
  for (const std::filesystem::path& path : left) std::filesystem::remove(path, error);
}

}  // namespace

void write_file_atomic(const std::filesystem::path& path, std::span<const std::byte> bytes, std::string_view tag) {
  publish_file(path, bytes, path.string() + ".tmp-" + std::string(tag));
}

void write_file_atomic(const std::filesystem::path& path, std::string_view text, std::string_view tag) {
  write_file_atomic(path, std::as_bytes(std::span(text)), tag);
}

void write_file_shared(const std::filesystem::path& path, std::string_view text) {
  const std::string tag = host_name() + ".";
  remove_abandoned(path.has_parent_path() ? path.parent_path() : ".", path.filename().string() + ".tmp-" + tag);
  std::random_device random;
  write_file_atomic(path, text, tag + std::to_string(::getpid()) + "." + std::to_string(random()));
}

OutputFile::OutputFile(const std::filesystem::path& path) : path_(path.string()) {
  descriptor_ = Descriptor(path_, O_WRONLY | O_CREAT | O_EXCL, 0644, "create").release();
}

OutputFile::~OutputFile() {
  if (descriptor_ >= 0) ::close(descriptor_);
}

void OutputFile::write_at(std::int64_t offset, std::span<const std::byte> bytes) {
  if (const int error = write_fully(descriptor_, bytes, offset); error != 0) fail(path_, "write", error);
}

void OutputFile::finish() {
  const int error = sync_fully(descriptor_);
  const bool closed = ::close(std::exchange(descriptor_, -1)) == 0;
  if (error != 0 || !closed) fail(path_, "write", error != 0 ? error : errno);
}

void sync_directory(const std::filesystem::path& directory) {
  const std::string name = directory.empty() ? "." : directory.string();
  const Descriptor handle(name, O_RDONLY | O_DIRECTORY, 0, "open");
  if (const int error = sync_fully(handle.get()); error != 0 && error != EINVAL) fail(name, "sync", error);
}

}  // namespace voronoi::core
