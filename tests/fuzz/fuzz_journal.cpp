// journal.log: replayed, continued, cut; then the state of the run that its records tell.
#include <fmt/format.h>

#include <filesystem>
#include <optional>
#include <vector>

#include "core/file.h"
#include "core/hash.h"
#include "fuzz/fuzz.h"
#include "run/run_state.h"
#include "store/journal.h"

namespace voronoi::fuzz {
namespace {

using Records = std::vector<core::Json>;

std::optional<Records> read_journal(const std::string& path) {
  Records records;
  if (!accepts([&] { records = store::Journal::read(path); })) return std::nullopt;
  return records;
}

void run(std::string_view input) {
  static const Folder folder;
  const std::string path = folder.write("journal.log", input);
  const std::optional<Records> records = read_journal(path);
  if (!records) return;

  // Cut anywhere it is a journal of the first records.
  const std::size_t cut = std::hash<std::string_view>()(input) % (input.size() + 1);
  folder.write("cut.log", input.substr(0, cut));
  const std::optional<Records> fewer = read_journal(folder / "cut.log");
  require(fewer.has_value(), "a journal is refused once it is cut");
  require(fewer->size() <= records->size() && std::equal(fewer->begin(), fewer->end(), records->begin()),
          "a cut journal has other records");

  // Its writer keeps the whole records, byte for byte, and goes on behind them.
  {
    store::Journal journal(path, folder / "temporary");
    require(journal.records() == *records, "a writer reads other records");
    const std::string kept = core::read_text_file(path);
    require(input.starts_with(kept) && journal.dropped_torn_tail() == (kept.size() < input.size()),
            "a writer keeps something else");
    journal.append({{"kind", "next"}});
  }
  const std::optional<Records> more = read_journal(path);
  require(more && more->size() == records->size() + 1 && std::equal(records->begin(), records->end(), more->begin()),
          "a record is not appended");
  accepts([&] { run::replay(*records, path); });
}

/// Puts numbers and checks of all lines right.
void seal(std::string& file) {
  std::string_view text = file;
  std::string out;
  for (std::size_t number = 1; !text.empty(); ++number) {
    const std::size_t end = text.find('\n');
    std::string_view payload = text.substr(0, end);
    for (int field = 0; field < 2; ++field) payload.remove_prefix(std::min(payload.find(' '), payload.size() - 1) + 1);
    const std::string numbered = fmt::format("{} {}", number, payload);
    out += fmt::format("{} {} {}", number, core::sha256(numbered).substr(0, 16), payload);
    if (end == std::string_view::npos) break;
    out += '\n';
    text.remove_prefix(end + 1);
  }
  file = out;
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
