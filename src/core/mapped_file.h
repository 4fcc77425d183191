// Files of the model mapped into memory, and what happens when one fails while it is read.
#pragma once

#include <cstddef>
#include <filesystem>
#include <memory>
#include <span>
#include <string>

namespace voronoi::core {

/// A file mapped read-only: no copy, and the system may drop its pages at any time. Throws StoreError when it cannot be
/// opened. An empty file maps to an empty span. A page that cannot be read later (the file was cut, its disk failed) is
/// a SIGBUS, see report_lost_pages(); a file that is cut inside its last page, or overwritten, gives other bytes
/// without a signal, which require_unchanged() finds.
class MappedFile {
 public:
  explicit MappedFile(const std::filesystem::path& path);
  ~MappedFile();
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&&) = delete;

  std::span<const std::byte> bytes() const;
  const std::string& path() const;

  /// Call after bytes() were read and before they count: throws StoreError when the file's size or time of change is
  /// not what it was when it was opened. Another file in its place does not matter: the mapped one stays.
  void require_unchanged() const;

 private:
  struct Mapping;
  std::unique_ptr<Mapping> mapping_;
};

/// Tells the system that bytes of a mapped file will soon be read: it may fetch their pages meanwhile. A hint.
void will_read(std::span<const std::byte> bytes);

/// From now on a page of a mapped file that cannot be read ends the process with a message that names the file, and
/// ExitCode::node; mpirun then ends the job. `rank` < 0: one process. Call once, after MPI has installed its own
/// handlers; those get any other SIGBUS.
void report_lost_pages(int rank);

}  // namespace voronoi::core
