// run.json: what is accepted is the identity that its own run has.
#include "core/hash.h"
#include "core/json.h"
#include "fuzz/fuzz.h"
#include "store/run_directory.h"
#include "store/start.h"

namespace voronoi::fuzz {
namespace {

void run(std::string_view input) {
  static const Folder folder;
  folder.write("run.json", input);
  const store::RunPaths paths{folder.path()};
  core::Json identity;
  if (!accepts([&] { identity = store::read_identity(paths); })) return;
  require(accepts([&] { store::check_or_write_identity(store::Start(paths, "none", 1), identity); }),
          "an identity is not its own");
  identity["another key"] = 1;
  require(!accepts([&] {
    try {
      store::check_or_write_identity(store::Start(paths, "none", 1), identity);
    } catch (const core::ConfigError&) {  // of several lines
      throw core::ConfigError("differs");
    }
  }),
          "another identity passes");
}

/// Puts the digest right wherever 64 characters in quotes stand.
void seal(std::string& text) {
  constexpr std::size_t kDigits = 64;
  constexpr std::string_view kKey = "\"sha256\": \"";
  const std::size_t key = text.find(kKey);
  if (key == std::string::npos || key + kKey.size() + kDigits > text.size()) return;
  const std::size_t at = key + kKey.size();
  text.replace(at, kDigits, kDigits, '0');
  text.replace(at, kDigits, core::sha256(text));
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
