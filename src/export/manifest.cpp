#include "export/manifest.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "core/error.h"
#include "core/file.h"
#include "core/hash.h"
#include "core/json.h"

namespace voronoi::exporting {
namespace {

namespace fs = std::filesystem;
using core::FormatError;

constexpr std::string_view kFormat = "voronoi export";

/// A file of the directory or of a folder in it; nothing that leads out of it.
bool is_plain_name(std::string_view name) {
  const std::size_t slash = name.find('/');
  const std::string_view first = name.substr(0, slash);
  if (first.empty() || first.front() == '.') return false;
  return slash == std::string_view::npos || is_plain_name(name.substr(slash + 1));
}

}  // namespace

std::string manifest_text(const Manifest& manifest) {
  core::Json files = core::Json::array(), layers = core::Json::array();
  for (const Manifest::File& file : manifest.files)
    files.push_back({{"name", file.name}, {"bytes", file.size_bytes}, {"sha256", file.sha256}});
  for (const auto& [name, sum] : manifest.layers) layers.push_back({{"name", name}, {"shard_sha256", sum}});
  core::Json json{{"format", kFormat},
                  {"version", 1},
                  {"run", manifest.run},
                  {"method", manifest.method},
                  {"profile", profile_name(manifest.profile)},
                  {"files", std::move(files)},
                  {"layers", std::move(layers)}};
  // Named only where it is not the one that every export had before there was a choice.
  if (manifest.layout != "vptq") json["layout"] = manifest.layout;
  return core::seal_json(std::move(json)).dump(1) + "\n";
}

void write_manifest(const fs::path& directory, Manifest manifest) {
  std::vector<fs::path> paths;
  for (const auto& entry : fs::recursive_directory_iterator(directory))
    if (!entry.is_directory() && entry.path() != directory / kManifestName) paths.push_back(entry.path());
  std::sort(paths.begin(), paths.end());
  manifest.files.clear();
  for (const fs::path& path : paths)
    manifest.files.push_back({path.lexically_relative(directory).generic_string(), core::sha256_of_file(path),
                              static_cast<std::int64_t>(fs::file_size(path))});
  core::write_file_atomic(directory / kManifestName, manifest_text(manifest), "export");
}

std::optional<Manifest> read_manifest(const fs::path& directory) {
  const std::string path = (directory / kManifestName).string();
  if (!fs::exists(path)) return std::nullopt;
  const core::Json json = core::read_sealed_json(path, "export again");
  Manifest manifest;
  try {
    if (json.at("format") != kFormat || json.at("version") != 1)
      throw FormatError(path, "is not a manifest that this version reads");
    manifest.run = json.at("run").get<std::string>();
    manifest.method = json.at("method").get<std::string>();
    const auto profile = profile_from_name(json.at("profile").get<std::string>());
    if (!profile) throw FormatError(path, "names an unknown profile");
    manifest.profile = *profile;
    manifest.layout = json.value("layout", manifest.layout);
    for (const core::Json& file : json.at("files")) {
      manifest.files.push_back({file.at("name").get<std::string>(), file.at("sha256").get<std::string>(),
                                core::whole_number(file.at("bytes"))});
      if (!is_plain_name(manifest.files.back().name))
        throw FormatError(path, "names " + core::quote_text(manifest.files.back().name) + ", no file of its directory");
    }
    for (const core::Json& layer : json.at("layers"))
      manifest.layers[layer.at("name").get<std::string>()] = layer.at("shard_sha256").get<std::string>();
  } catch (const core::Json::exception& error) {
    throw FormatError(path, std::string("is no manifest of an export: ") + error.what());
  }
  return manifest;
}

std::string check_file(const fs::path& directory, const Manifest::File& file) {
  const fs::path path = directory / file.name;
  std::error_code error;
  const auto size = fs::file_size(path, error);
  if (error) return path.string() + ": is missing";
  if (std::cmp_not_equal(size, file.size_bytes))
    return fmt::format("{}: has {} bytes, {} were exported", path.string(), size, file.size_bytes);
  if (core::sha256_of_file(path) != file.sha256)
    return path.string() + ": is not the file that was exported (checksum)";
  return {};
}

std::vector<std::string> check_files(const fs::path& directory, const Manifest& manifest) {
  std::vector<std::string> problems;
  for (const Manifest::File& file : manifest.files)
    if (std::string problem = check_file(directory, file); !problem.empty()) problems.push_back(std::move(problem));
  return problems;
}

}  // namespace voronoi::exporting
