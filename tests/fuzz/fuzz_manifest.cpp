// voronoi_export.json of a directory with one other file.
#include "core/hash.h"
#include "core/json.h"
#include "export/manifest.h"
#include "fuzz/fuzz.h"

namespace voronoi::fuzz {
namespace {

void run(std::string_view input) {
  static const Folder folder;
  folder.write("config.json", "{}");
  folder.write(exporting::kManifestName, input);
  accepts([&] {
    const auto manifest = exporting::read_manifest(folder.path());
    require(manifest.has_value(), "a manifest is not seen");
    for (const exporting::Manifest::File& file : manifest->files)
      require(std::filesystem::path(file.name).filename() == file.name, "a file outside the directory");
    exporting::check_files(folder.path(), *manifest);
  });
}

/// Puts the object's own sum right.
void seal(std::string& text) {
  try {
    core::Json json = core::parse_json(text, "manifest");
    if (json.is_object()) {
      json.erase("sha256");
      json["sha256"] = core::sha256(json.dump());
      text = json.dump();
    }
  } catch (const core::FormatError&) {  // stays as it is
  }
}

}  // namespace
}  // namespace voronoi::fuzz

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  voronoi::fuzz::run(voronoi::fuzz::text_of(data, size));
  return 0;
}

extern "C" std::size_t LLVMFuzzerCustomMutator(std::uint8_t* data, std::size_t size, std::size_t max_size,
                                               unsigned seed) {
  return voronoi::fuzz::mutate_and_repair(data, size, max_size, seed, 8, voronoi::fuzz::seal);
}
