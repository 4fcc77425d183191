#include "store/run_directory.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <map>
#include <system_error>
#include <vector>

#include "core/error.h"
#include "core/file.h"
#include "core/hash.h"
#include "core/printable.h"
#include "store/start.h"

namespace voronoi::store {
namespace {

namespace fs = std::filesystem;
using core::ConfigError;
using core::FormatError;
using core::Json;

constexpr std::string_view kRunFormat = "voronoi run";
constexpr int kVersion = 1;
constexpr std::size_t kDigestDigits = 64;
constexpr const char* kWriteCheck = ".write-check";

/// Names the option that another place is given by.
core::StoreError unusable(const fs::path& path, const char* what, int error) {
  core::StoreError told = core::system_error(path, what, error);
  told.add_context("--run");
  return told;
}

std::string dump(const Json& value, int indent = -1) {
  return value.dump(indent, ' ', false, Json::error_handler_t::replace);
}

std::array<fs::path, 9> folders_of(const RunPaths& paths) {
  return {paths.layers(), paths.hessians(), paths.staging(), paths.quarantine(), paths.evaluations(),
          paths.report(), paths.logs(),     paths.tuning(),  paths.root};
}

bool holds_starts_only(const fs::path& staging) {
  std::error_code error;
  for (auto entry = fs::directory_iterator(staging, error); !error && entry != fs::directory_iterator();
       entry.increment(error)) {
    const std::string name = entry->path().filename().string();
    if (!name.starts_with("start-") && !name.starts_with("revoked-")) return false;
  }
  return !error;
}

/// What a start that was cut off before run.json was written leaves behind: the lock, log files, empty folders.
bool is_left_by_interrupted_start(const RunPaths& paths, const fs::directory_entry& entry) {
  const std::string name = entry.path().filename().string();
  std::error_code error;
  if (entry.is_symlink(error)) return false;
  if (entry.path() == paths.lock() || entry.path() == paths.logs() || name.starts_with("lock.json.tmp-") ||
      name == kWriteCheck)
    return true;
  if (entry.path() == paths.staging()) return holds_starts_only(entry.path());
  for (const fs::path& folder : folders_of(paths))
    if (entry.path() == folder) return entry.is_directory(error) && fs::is_empty(entry.path(), error);
  return false;
}

void refuse_foreign_folder(const RunPaths& paths) {
  std::error_code error;
  const fs::file_status status = fs::status(paths.root, error);
  if (!fs::exists(status)) return;
  if (!fs::is_directory(status))
    throw ConfigError(paths.root.string() + ": is not a directory; choose another place with --run");
  if (fs::exists(paths.identity(), error)) return;
  auto entry = fs::directory_iterator(paths.root, error);
  if (error) throw unusable(paths.root, "list", error.value());
  for (; entry != fs::directory_iterator(); entry.increment(error)) {
    const bool known = is_left_by_interrupted_start(paths, *entry);
    if (fs::exists(paths.identity(), error)) return;  // another start has made it meanwhile; the lock decides
    if (!known)
      throw ConfigError(
          fmt::format("{}: is neither empty nor a run directory (no run.json, but \"{}\"); choose an empty or new "
                      "directory with --run",
                      paths.root.string(), entry->path().filename().string()));
    if (error) break;
  }
  if (error) throw unusable(paths.root, "list", error.value());
}

/// A write that fails late costs hours: try one now. Always the same file, so that one of a killed start is not left.
void check_writable(const RunPaths& paths) {
  const fs::path probe = paths.root / kWriteCheck;
  const int descriptor = ::open(probe.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0644);
  if (descriptor < 0) throw unusable(paths.root, "write", errno);
  const int error = core::write_fully(descriptor, std::as_bytes(std::span("x")));
  ::close(descriptor);
  ::unlink(probe.c_str());
  if (error != 0) throw unusable(paths.root, "write", error);
}

/// Leaves of nested objects under dotted keys; anything else is a value. An empty object is a value too.
void flatten(const Json& value, const std::string& prefix, std::map<std::string, const Json*>& out) {
  if (!value.is_object() || value.empty()) {
    out[prefix] = &value;
    return;
  }
  for (const auto& [key, child] : value.items())
    flatten(child, prefix.empty() ? key : fmt::format("{}.{}", prefix, key), out);
}

std::vector<std::string> differences(const Json& was, const Json& now) {
  std::map<std::string, const Json*> old_values, new_values;
  flatten(was, "", old_values);
  flatten(now, "", new_values);
  std::map<std::string, std::pair<const Json*, const Json*>> pairs;
  for (const auto& [key, value] : old_values) pairs[key].first = value;
  for (const auto& [key, value] : new_values) pairs[key].second = value;
  const auto show = [](const Json* value) { return value ? dump(*value) : std::string("absent"); };
  std::vector<std::string> lines;
  for (const auto& [key, pair] : pairs)
    if (!pair.first || !pair.second || *pair.first != *pair.second)
      lines.push_back(
          core::printable(fmt::format("{}: was {}, is {}", key, show(pair.first), show(pair.second)), 1000));
  return lines;
}

bool is_plain_name(const std::string& name) {
  return !name.empty() && name.find('/') == std::string::npos && name.find('\0') == std::string::npos;
}

std::string identity_text(const Json& identity, const std::string& digest) {
  Json file = Json::object();
  file["format"] = kRunFormat;
  file["version"] = kVersion;
  file["sha256"] = digest;
  file["identity"] = identity;
  return dump(file, 2) + "\n";
}

}  // namespace

fs::path RunPaths::layer(const std::string& name, std::int64_t generation) const {
  VORONOI_REQUIRE(is_plain_name(name), "\"" + name + "\" is not the name of a linear or tensor");
  VORONOI_REQUIRE(generation >= 0, "generations count from 0");
  return layers() / (generation == 0 ? name + ".h5" : fmt::format("{}.g{}.h5", name, generation));
}

fs::path RunPaths::token_weights(std::int64_t chunk) const {
  return hessians() / fmt::format("tokens_{:04}.h5", chunk);
}

fs::path RunPaths::hessian(std::int64_t block, const std::string& site) const {
  VORONOI_REQUIRE(block >= 0, "blocks count from 0");
  VORONOI_REQUIRE(is_plain_name(site), "\"" + site + "\" is not the name of a site");
  return hessians() / fmt::format("block_{:03}.{}.h5", block, site);
}

fs::path RunPaths::tuning_buffers(std::int64_t block, std::int64_t step) const {
  VORONOI_REQUIRE(block >= 0 && step >= 0, "blocks and steps count from 0");
  return tuning() / fmt::format("codes.block_{:03}.step_{}.h5", block, step);
}

void create_run_directory(const RunPaths& paths) {
  refuse_foreign_folder(paths);
  for (const fs::path& folder : folders_of(paths)) {
    std::error_code error;
    fs::create_directories(folder, error);
    if (error) throw unusable(folder, "create the directory", error.value());
  }
  check_writable(paths);
  core::sync_directory(paths.root);
}

std::vector<std::string> run_directory_problems(const RunPaths& paths) {
  try {
    refuse_foreign_folder(paths);
  } catch (const core::Error& error) {
    return {error.what()};
  }
  // The nearest directory that is there will get the rest.
  std::error_code error;
  fs::path place = fs::absolute(paths.root).lexically_normal();
  while (!fs::exists(place, error) && place.has_relative_path()) place = place.parent_path();
  if (!fs::is_directory(place, error)) return {unusable(place, "create a directory in it", ENOTDIR).what()};
  if (::access(place.c_str(), W_OK | X_OK) != 0) return {unusable(place, "write", errno).what()};
  return {};
}

std::vector<std::string> identity_problems(const RunPaths& paths, const Json& identity) {
  // As it would be read back, so that only what the file can tell apart counts as different.
  const std::vector<std::string> lines =
      differences(read_identity(paths), core::parse_json(dump(identity), "identity"));
  if (lines.empty()) return {};
  std::vector<std::string> problems{
      paths.root.string() + ": was started with other settings; choose another place with --run, or the old settings:"};
  for (const std::string& line : lines) problems.push_back("  " + line);
  return problems;
}

void check_or_write_identity(const Start& start, const Json& identity) {
  const RunPaths& paths = start.paths();
  VORONOI_REQUIRE(identity.is_object(), "a run's identity is an object");
  std::error_code error;
  const fs::file_type type = fs::symlink_status(paths.identity(), error).type();
  if (type == fs::file_type::none) throw unusable(paths.identity(), "look for", error.value());
  if (type == fs::file_type::not_found) {
    const Json now = core::parse_json(dump(identity), "identity");
    const std::string digest = core::sha256(identity_text(now, std::string(kDigestDigits, '0')));
    start.publish(paths.identity(), identity_text(now, digest));
    return;
  }
  if (const std::vector<std::string> problems = identity_problems(paths, identity); !problems.empty())
    throw ConfigError(problems);
}

Json read_identity(const RunPaths& paths) {
  const std::string file = paths.identity().string();
  const auto damaged = [&](const std::string& what) {
    return FormatError(file, what + "; restore it from a copy, or start a new run with another --run");
  };
  std::string text = core::read_text_file(paths.identity(), std::size_t{1} << 26);
  Json json;
  try {
    json = core::parse_json(text, file);
  } catch (const FormatError& error) {
    throw damaged("is damaged (" + std::string(error.what()) + ")");
  }
  if (!json.is_object() || !json.contains("format") || json["format"] != kRunFormat)
    throw damaged("is not a run's identity");
  if (!json.contains("version") || json["version"] != kVersion)
    throw FormatError(
        file, "was written by another version of the format; use the program that made this run, or another --run");
  if (!json.contains("sha256") || !json["sha256"].is_string() || !json.contains("identity") ||
      !json["identity"].is_object())
    throw damaged("is damaged (sha256 or identity is missing)");
  const std::string digest = json["sha256"].get<std::string>();
  const std::size_t at = text.find(digest);
  if (digest.size() != kDigestDigits || at == std::string::npos) throw damaged("is damaged (sha256 is not a digest)");
  text.replace(at, kDigestDigits, kDigestDigits, '0');
  if (core::sha256(text) != digest) throw damaged("is damaged (its checksum does not match)");
  return json["identity"];
}

}  // namespace voronoi::store
