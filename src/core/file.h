// Files: checked reading and atomic publishing.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/error.h"

namespace voronoi::core {

/// "PATH: cannot WHAT: REASON; REMEDY" of a system call's errno.
StoreError system_error(const std::filesystem::path& path, std::string_view what, int error);

/// write or, with an offset, pwrite until all is written; fsync. 0 or the errno; a signal does not count.
int write_fully(int descriptor, std::span<const std::byte> bytes, std::int64_t offset = -1);
int sync_fully(int descriptor);

/// A descriptor of a regular file, for the caller to close. Throws StoreError.
int open_for_reading(const std::string& path);

/// The file from front to back, in pieces of at most `piece_bytes` that are valid during the call. Throws StoreError.
void read_pieces(const std::filesystem::path& path, const std::function<void(std::span<const std::byte>)>& take,
                 std::size_t piece_bytes = std::size_t{1} << 22);

/// Whole file, read rather than mapped: a failing disk or a file cut meanwhile is an error here, not a signal. Throws
/// StoreError, or FormatError above `max_bytes`.
std::vector<std::byte> read_file(const std::filesystem::path& path, std::size_t max_bytes = std::size_t{1} << 46);

/// Whole file as text; throws StoreError, or FormatError above `max_bytes`.
std::string read_text_file(const std::filesystem::path& path, std::size_t max_bytes = std::size_t{1} << 33);

/// All that a pipe gives, to its end; waits for who writes to it. Throws StopRequested besides.
std::string read_pipe(const std::filesystem::path& path, std::size_t max_bytes);

/// Publishes `bytes` at `path`: written to "<path>.tmp-<tag>", synced, renamed over `path`, directory synced. Throws
/// StoreError (naming path and cause) and leaves no temporary file behind. `tag` tells writers apart (the start's
/// id).
void write_file_atomic(const std::filesystem::path& path, std::span<const std::byte> bytes, std::string_view tag);
void write_file_atomic(const std::filesystem::path& path, std::string_view text, std::string_view tag);

/// The same of a file that several processes may write at once: whole is what the last of them wrote. Temporary files
/// that killed writers of this host left beside it are removed.
void write_file_shared(const std::filesystem::path& path, std::string_view text);

/// The same through a temporary file of the caller's choice, on the same file system.
void publish_file(const std::filesystem::path& path, std::span<const std::byte> bytes,
                  const std::filesystem::path& temporary);

/// A new file that is written piece by piece at given offsets. Not atomic by itself: write it under a temporary name or
/// in a temporary directory, finish() it, rename. Every member throws StoreError naming path and cause.
class OutputFile {
 public:
  /// Creates the file; it must not be there.
  explicit OutputFile(const std::filesystem::path& path);
  ~OutputFile();
  OutputFile(const OutputFile&) = delete;
  OutputFile& operator=(const OutputFile&) = delete;

  void write_at(std::int64_t offset, std::span<const std::byte> bytes);
  /// Syncs and closes; nothing may be written afterwards.
  void finish();

 private:
  std::string path_;
  int descriptor_ = -1;
};

/// fsync of a directory, so that renames and removals in it survive a power loss.
void sync_directory(const std::filesystem::path& directory);

}  // namespace voronoi::core
