// voronoi_export.json of an exported directory: where it comes from and the checksum of every other file.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "export/profile.h"

namespace voronoi::exporting {

inline constexpr const char* kManifestName = "voronoi_export.json";

struct Manifest {
  struct File {
    std::string name, sha256;
    std::int64_t size_bytes = 0;
  };
  std::string run;              ///< absolute path of the run directory
  std::string method;           ///< that quantized the layers
  std::string layout = "vptq";  ///< its name
  Profile profile = Profile::safe;
  std::vector<File> files;  ///< by name
  /// Linear, or tensor that is not the model's own -> SHA-256 of its shard in the run.
  std::map<std::string, std::string> layers;
};

/// The file's text.
std::string manifest_text(const Manifest& manifest);
/// Sums every file of the directory, takes them for those of `manifest` and writes it.
void write_manifest(const std::filesystem::path& directory, Manifest manifest);

/// Nothing when the directory has no manifest. Throws FormatError when it is damaged or names files outside.
std::optional<Manifest> read_manifest(const std::filesystem::path& directory);

/// What differs between a file of the directory and the manifest: missing, of another size or checksum; empty: nothing.
/// Reads it as a whole.
std::string check_file(const std::filesystem::path& directory, const Manifest::File& file);
/// The same of all files, one after the other.
std::vector<std::string> check_files(const std::filesystem::path& directory, const Manifest& manifest);

}  // namespace voronoi::exporting
