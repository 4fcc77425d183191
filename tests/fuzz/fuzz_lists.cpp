// A list of calibration texts, of --calibration-preset; and a file of quoted figures.
#include "core/json.h"
#include "fuzz/fuzz.h"
#include "planning/preset.h"
#include "validation/quoted.h"

namespace voronoi::fuzz {
namespace {

void run(std::string_view input) {
  static const Folder folder;
  folder.write("there.txt", "a text\n");
  run::Settings settings;
  settings.calibration_preset = folder.write("list.json", input);
  settings.calibration_data = folder.path();
  accepts([&] {
    planning::take_preset(settings);
    require(
        !settings.calibration_texts.empty() && settings.calibration_texts.size() == settings.calibration_weights.size(),
        "a weight for every text is wanted");
    for (const std::string& missing : settings.missing_texts) check_message(missing);
  });
  accepts([&] {
    model::ModelConfig config;
    config.hidden_size = 576;
    config.n_layers = 30;
    const validation::QuotedTable table = validation::parse_quoted(core::parse_json(input, "q.json"), "q.json", config);
    for (const validation::QuotedRow& row : table.rows)
      require(row.figures.size() == table.columns.size(), "a figure for every column is wanted");
    static_cast<void>(validation::quoted_cells(table));
  });
}

}  // namespace
}  // namespace voronoi::fuzz

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  voronoi::fuzz::quiet();
  voronoi::fuzz::run(voronoi::fuzz::text_of(data, size));
  return 0;
}
