#include "core/file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>
#include <vector>

#include "core/error.h"

namespace voronoi::core {
namespace {

[[noreturn]] void fail(const std::string& path, const char* what, int error) {
  std::string remedy;
  if (error == ENOSPC || error == EDQUOT) remedy = "; free some space and run the same command again";
  if (error == EACCES || error == EPERM || error == EROFS) remedy = "; check its permissions or choose another place";
  if (error == ENOENT || error == ENOTDIR) remedy = "; check the path";
  if (error == EXDEV) remedy = "; a run directory must lie on one file system as a whole";
  throw StoreError(path + ": cannot " + what + ": " + std::strerror(error) + remedy);
}

class Descriptor {
 public:
  Descriptor(const std::string& path, int flags, mode_t mode, const char* what)
      : fd_(::open(path.c_str(), flags | O_CLOEXEC, mode)) {
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
  int fd_;
};

std::size_t regular_file_size(const Descriptor& file, const std::string& path) {
  struct stat status {};
  if (::fstat(file.get(), &status) != 0) fail(path, "stat", errno);
  if (!S_ISREG(status.st_mode)) throw StoreError(path + ": is not a regular file");
  return static_cast<std::size_t>(status.st_size);
}

// Non-blocking: opening a pipe that nobody writes to would wait for ever; on regular files the flag has no effect.
constexpr int kReadFlags = O_RDONLY | O_NONBLOCK;

template <class Bytes>
Bytes read_whole(const std::string& path, std::size_t max_bytes) {
  const Descriptor file(path, kReadFlags, 0, "open");
  const std::size_t size = regular_file_size(file, path);
  if (size > max_bytes)
    throw FormatError(
        path, "has " + std::to_string(size) + " bytes, more than the " + std::to_string(max_bytes) + " that are read");
  Bytes bytes(size, {});
  std::size_t done = 0;
  while (done < size) {
    const ssize_t n = ::read(file.get(), bytes.data() + done, size - done);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) fail(path, "read", errno);
    if (n == 0) break;  // cut by somebody meanwhile
    done += static_cast<std::size_t>(n);
  }
  bytes.resize(done);
  return bytes;
}

}  // namespace

MappedFile::MappedFile(const std::filesystem::path& path) : path_(path.string()) {
  const Descriptor file(path_, kReadFlags, 0, "open");
  const std::size_t size = regular_file_size(file, path_);
  if (size == 0) return;
  void* address = ::mmap(nullptr, size, PROT_READ, MAP_PRIVATE, file.get(), 0);
  if (address == MAP_FAILED) fail(path_, "map", errno);
  bytes_ = {static_cast<const std::byte*>(address), size};
}

MappedFile::~MappedFile() {
  if (!bytes_.empty()) ::munmap(const_cast<std::byte*>(bytes_.data()), bytes_.size());
}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : path_(std::move(other.path_)), bytes_(std::exchange(other.bytes_, {})) {}

std::vector<std::byte> read_file(const std::filesystem::path& path, std::size_t max_bytes) {
  return read_whole<std::vector<std::byte>>(path.string(), max_bytes);
}

std::string read_text_file(const std::filesystem::path& path, std::size_t max_bytes) {
  return read_whole<std::string>(path.string(), max_bytes);
}

void publish_file(const std::filesystem::path& path, std::span<const std::byte> bytes,
                  const std::filesystem::path& temporary_path) {
  const std::string temporary = temporary_path.string();
  Descriptor file(temporary, O_WRONLY | O_CREAT | O_TRUNC, 0644, "create");
  int error = 0;
  for (std::size_t done = 0; done < bytes.size() && error == 0;) {
    const ssize_t n = ::write(file.get(), bytes.data() + done, bytes.size() - done);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0)
      error = n < 0 ? errno : EIO;
    else
      done += static_cast<std::size_t>(n);
  }
  if (error == 0 && ::fsync(file.get()) != 0) error = errno;
  if (::close(file.release()) != 0 && error == 0) error = errno;
  if (error == 0 && ::rename(temporary.c_str(), path.c_str()) != 0) error = errno;
  if (error != 0) {
    ::unlink(temporary.c_str());
    fail(path.string(), "write", error);
  }
  sync_directory(path.parent_path());
}

void write_file_atomic(const std::filesystem::path& path, std::span<const std::byte> bytes, std::string_view tag) {
  publish_file(path, bytes, path.string() + ".tmp-" + std::string(tag));
}

void write_file_atomic(const std::filesystem::path& path, std::string_view text, std::string_view tag) {
  write_file_atomic(path, std::as_bytes(std::span(text)), tag);
}

OutputFile::OutputFile(const std::filesystem::path& path) : path_(path.string()) {
  descriptor_ = Descriptor(path_, O_WRONLY | O_CREAT | O_EXCL, 0644, "create").release();
}

OutputFile::~OutputFile() {
  if (descriptor_ >= 0) ::close(descriptor_);
}

void OutputFile::write_at(std::int64_t offset, std::span<const std::byte> bytes) {
  for (std::size_t done = 0; done < bytes.size();) {
    const ssize_t n = ::pwrite(descriptor_, bytes.data() + done, bytes.size() - done,
                               static_cast<off_t>(offset) + static_cast<off_t>(done));
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) fail(path_, "write", n < 0 ? errno : EIO);
    done += static_cast<std::size_t>(n);
  }
}

void OutputFile::finish() {
  const int error = ::fsync(descriptor_) != 0 ? errno : 0;
  const bool closed = ::close(std::exchange(descriptor_, -1)) == 0;
  if (error != 0 || !closed) fail(path_, "write", error != 0 ? error : errno);
}

void sync_directory(const std::filesystem::path& directory) {
  const std::string name = directory.empty() ? "." : directory.string();
  const Descriptor handle(name, O_RDONLY | O_DIRECTORY, 0, "open");
  if (::fsync(handle.get()) != 0 && errno != EINVAL) fail(name, "sync", errno);
}

}  // namespace voronoi::core
