// A checkpoint while it is made: a directory of its own, whose whole files are known again after a kill.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>

#include "export/manifest.h"

namespace voronoi::exporting {

/// Beside each of its large files that is whole lies a record, <name>.whole, with what the file was made of, its size
/// and its SHA-256. Ranks may share the directory; a file and its record are one rank's.
class UnfinishedExport {
 public:
  /// Where a file is made that will be renamed to `path`, on the same file system.
  using Temporary = std::function<std::filesystem::path(const std::filesystem::path& path)>;

  struct Record {
    std::string sha256;
    std::int64_t size_bytes = 0;
    std::int64_t rounded = 0;  ///< tensors in it that were rounded on their way
  };

  /// Creates nothing. Without `temporary`: <file>.part in the directory. remove: takes a directory away, where it is
  /// not anybody's to do so.
  explicit UnfinishedExport(std::filesystem::path directory, Temporary temporary = nullptr,
                            std::function<void(const std::filesystem::path&)> remove = nullptr);

  const std::filesystem::path& directory() const { return directory_; }
  std::filesystem::path temporary(const std::filesystem::path& path) const { return temporary_(path); }

  /// Before any file is looked at, by one rank: creates the directory, and takes away what is neither one of `files`
  /// nor tells of them. Throws StoreError.
  void begin(const std::set<std::string>& files) const;

  /// A file that is there, made of this, and whole: its bytes are summed. `origin`: as the manifest has it, which tells
  /// of files whose records are gone already.
  std::optional<Record> find_whole(const std::string& file, std::string_view made_of, std::int64_t size_bytes,
                                   const Manifest& origin) const;
  /// Renames a synced file from its temporary name, then writes its record. Throws StoreError.
  void publish_whole(const std::string& file, std::string_view made_of, const Record& record) const;
  /// A small file, in a folder that is made where it has one.
  void publish(const std::string& file, std::string_view content) const;
  /// When all is there: what has told of whole files goes.
  void drop_records() const;

  /// Whether a file is whole: something that another try need not make again.
  bool holds_any() const;
  /// All of it, if it can be.
  void remove() const;

 private:
  std::filesystem::path directory_;
  Temporary temporary_;
  std::function<void(const std::filesystem::path&)> remove_;
};

/// The right to make an export in a directory, among processes that see one another's locks (flock): there are file
/// systems that keep them to a host, or know none, where everyone has it.
class DirectoryLock {
 public:
  /// Creates the directory where it is not there. Throws StoreError: another process holds it.
  explicit DirectoryLock(const std::filesystem::path& directory);
  ~DirectoryLock();
  DirectoryLock(const DirectoryLock&) = delete;
  DirectoryLock& operator=(const DirectoryLock&) = delete;

 private:
  int descriptor_ = -1;
};

}  // namespace voronoi::exporting
