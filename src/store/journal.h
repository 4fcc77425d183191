// Append-only record log: a line each, checksummed and synced; a torn tail is dropped on opening, damage before it is
// an error.
#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "core/json.h"

namespace voronoi::store {

/// Records are JSON objects. One line: sequence number, SHA-256 (first 16 digits) of "number payload", payload,
/// newline.
class Journal {
 public:
  /// Opens or creates for appending: replays, drops a torn tail (an incomplete or unchecksummed last line) and keeps
  /// the records. The file is written anew under `temporary` (same file system), locked in by the rename to `path`, and
  /// appended to from then on: another process that still has the old file open cannot write into this one. Throws
  /// FormatError when a line before the last is damaged (file, line, remedy), StoreError when it cannot be written.
  Journal(const std::filesystem::path& path, const std::filesystem::path& temporary);
  ~Journal();
  Journal(Journal&&) noexcept;
  Journal& operator=(Journal&&) = delete;
  /// Found on opening, until taken; what is appended is not kept.
  const std::vector<core::Json>& records() const;
  std::vector<core::Json> take_records();
  bool dropped_torn_tail() const;
  /// Only in memory until commit() or append().
  void add(const core::Json& record);
  /// What was added is written, in one write, and synced when this returns. After a StoreError for want of space it may
  /// be called again; after a failed sync only a new Journal can tell what is on the disk.
  void commit();
  /// add() and commit(); a record that could not be written is not kept.
  void append(const core::Json& record);

  /// Read-only replay, for `status`: ignores a torn tail, writes nothing.
  static std::vector<core::Json> read(const std::filesystem::path& path);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace voronoi::store
