#include "export/unfinished.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <system_error>
#include <utility>
#include <vector>

#include "core/error.h"
#include "core/file.h"
#include "core/hash.h"
#include "core/json.h"
#include "core/log.h"

namespace voronoi::exporting {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kRecordEnding = ".whole";

fs::path record_of(const fs::path& file) { return file.string() + std::string(kRecordEnding); }

std::vector<fs::path> entries_of(const fs::path& directory) {
  std::vector<fs::path> found;
  std::error_code error;
  for (auto entry = fs::directory_iterator(directory, error); !error && entry != fs::directory_iterator();
       entry.increment(error))
    found.push_back(entry->path());
  if (error && error != std::errc::no_such_file_or_directory)
    throw core::system_error(directory, "list", error.value());
  return found;
}

/// What a record says, where it is one and of a file that was made of this.
std::optional<UnfinishedExport::Record> read_record(const fs::path& path, std::string_view made_of) {
  try {
    const core::Json json = core::read_sealed_json(path.string(), "it is made again");
    if (json.at("made_of") != made_of) return std::nullopt;
    return UnfinishedExport::Record{json.at("file_sha256").get<std::string>(), core::whole_number(json.at("bytes")),
                                    core::whole_number(json.at("rounded"))};
  } catch (const core::FormatError& error) {
    core::log_warning("{}", error.what());
  } catch (const core::Json::exception& error) {
    core::log_warning("{}: {}; it is made again", path.string(), error.what());
  }
  return std::nullopt;
}

bool same_origin(const Manifest& a, const Manifest& b) {
  return a.layout == b.layout && a.profile == b.profile && a.layers == b.layers;
}

/// Of a file that a manifest beside it lists.
std::optional<UnfinishedExport::Record> listed(const fs::path& directory, const std::string& file,
                                               const Manifest& origin) {
  try {
    const std::optional<Manifest> manifest = read_manifest(directory);
    if (!manifest || !same_origin(*manifest, origin)) return std::nullopt;
    for (const Manifest::File& known : manifest->files)
      if (known.name == file) return UnfinishedExport::Record{known.sha256, known.size_bytes, 0};
  } catch (const core::FormatError& error) {
    core::log_warning("{}", error.what());
  }
  return std::nullopt;
}

}  // namespace

UnfinishedExport::UnfinishedExport(fs::path directory, Temporary temporary, std::function<void(const fs::path&)> remove)
    : directory_(std::move(directory)), temporary_(std::move(temporary)), remove_(std::move(remove)) {
  if (!temporary_)
    temporary_ = [folder = directory_](const fs::path& path) { return folder / (path.filename().string() + ".part"); };
}

void UnfinishedExport::begin(const std::set<std::string>& files) const {
  std::error_code error;
  fs::create_directories(directory_, error);
  if (!error && !fs::is_directory(directory_)) error = std::make_error_code(std::errc::not_a_directory);
  if (error)
    throw core::StoreError(
        fmt::format("{}: cannot create the directory: {}; choose another --out or check its "
                    "permissions",
                    directory_.string(), error.message()));
  for (const fs::path& path : entries_of(directory_)) {
    std::string name = path.filename().string();
    if (name == kManifestName) continue;
    if (name.ends_with(kRecordEnding)) name.resize(name.size() - kRecordEnding.size());
    if (!files.contains(name)) fs::remove_all(path, error);
  }
}

std::optional<UnfinishedExport::Record> UnfinishedExport::find_whole(const std::string& file, std::string_view made_of,
                                                                     std::int64_t size_bytes,
                                                                     const Manifest& origin) const {
  const fs::path path = directory_ / file;
  std::error_code error;
  if (fs::file_size(path, error) != static_cast<std::uintmax_t>(size_bytes) || error) return std::nullopt;
  const std::optional<Record> record =
      fs::exists(record_of(path), error) ? read_record(record_of(path), made_of) : listed(directory_, file, origin);
  if (!record || record->size_bytes != size_bytes) return std::nullopt;
  if (core::sha256_of_file(path) == record->sha256) return record;
  core::log_warning("{}: is damaged (checksum); it is made again", path.string());
  return std::nullopt;
}

void UnfinishedExport::publish_whole(const std::string& file, std::string_view made_of, const Record& record) const {
  const fs::path path = directory_ / file, made = temporary_(path);
  std::error_code error;
  fs::remove(record_of(path), error);  // of a file that this one replaces
  fs::rename(made, path, error);
  if (error)
    throw core::StoreError(fmt::format("{}: cannot rename to {}: {}", made.string(), path.string(), error.message()));
  core::sync_directory(directory_);
  publish(file + std::string(kRecordEnding), core::seal_json({{"made_of", made_of},
                                                              {"file_sha256", record.sha256},
                                                              {"bytes", record.size_bytes},
                                                              {"rounded", record.rounded}})
                                                     .dump() +
                                                 "\n");
}

void UnfinishedExport::publish(const std::string& file, std::string_view content) const {
  const fs::path path = directory_ / file;
  std::error_code error;
  fs::create_directories(path.parent_path(), error);
  if (error) throw core::system_error(path.parent_path(), "create", error.value());
  core::publish_file(path, std::as_bytes(std::span(content)), temporary_(path));
}

void UnfinishedExport::drop_records() const {
  for (const fs::path& path : entries_of(directory_))
    if (path.filename().string().ends_with(kRecordEnding)) fs::remove(path);
  core::sync_directory(directory_);
}

bool UnfinishedExport::holds_any() const {
  for (const fs::path& path : entries_of(directory_))
    if (path.filename().string().ends_with(kRecordEnding) || path.filename() == kManifestName) return true;
  return false;
}

void UnfinishedExport::remove() const {
  std::error_code ignored;
  if (!remove_) {
    fs::remove_all(directory_, ignored);
    return;
  }
  try {
    remove_(directory_);
  } catch (const core::Error& error) {
    core::log_warning("{}", error.what());
  }
}

DirectoryLock::DirectoryLock(const fs::path& directory) {
  std::error_code error;
  fs::create_directories(directory, error);
  descriptor_ = ::open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
  if (descriptor_ < 0) {
    const int why = errno;
    throw core::system_error(directory, error ? "create" : "open", error ? error.value() : why);
  }
  if (::flock(descriptor_, LOCK_EX | LOCK_NB) == 0 || errno != EWOULDBLOCK) return;
  ::close(descriptor_);
  throw core::StoreError(directory.string() +
                         ": another process is making this export; wait for it, or choose another --out");
}

DirectoryLock::~DirectoryLock() {
  if (descriptor_ >= 0) ::close(descriptor_);
}

}  // namespace voronoi::exporting
