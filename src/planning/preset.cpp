#include "planning/preset.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>

#include "core/error.h"
#include "core/json.h"
#include "core/printable.h"
#include "model/calibration_windows.h"

namespace voronoi::planning {
namespace {

namespace fs = std::filesystem;

/// Of a path or a hint from a list, in messages.
constexpr std::size_t kShownBytes = 1000;

/// A list, and the folder that it lies in; empty: it is part of the program.
struct PresetList {
  core::Json json;
  std::string file;
  fs::path folder;
};

PresetList find_preset(const std::string& name) {
  for (const KnownPreset& known : known_presets())
    if (known.name == name) return {core::parse_json(known.json, name), name, {}};
  if (std::error_code error; name.ends_with(".json") && fs::exists(name, error))
    return {core::read_json_file(name), name, fs::absolute(name).parent_path()};
  throw core::ConfigError(fmt::format(
      "--calibration-preset: '{}' is neither a known list ({}) nor a *.json file that is there", name, preset_names()));
}

/// Where the file may be, the most likely place first.
std::vector<fs::path> places_of(const core::Json& text, const PresetList& list, const std::string& data) {
  const fs::path file = text.at("file").get<std::string>();
  if (file.is_absolute()) return {file};
  std::vector<fs::path> places;
  if (const char* set = std::getenv("VORONOI_DATA"); !data.empty() || (set != nullptr && *set != '\0'))
    places.push_back((data.empty() ? fs::path(set) : fs::path(data)) / file);
  if (!list.folder.empty()) places.push_back(list.folder / file);
  if (text.contains("folder")) places.push_back(fs::path(text.at("folder").get<std::string>()) / file);
  if (places.empty()) places.push_back(file);
  return places;
}

void take_text(const core::Json& text, const PresetList& list, run::Settings& settings) {
  const std::vector<fs::path> places = places_of(text, list, settings.calibration_data);
  const auto found = std::find_if(places.begin(), places.end(), [](const fs::path& place) {
    std::error_code error;
    return fs::exists(place, error);
  });
  settings.calibration_texts.push_back((found == places.end() ? places.front() : *found).string());
  if (found == places.end()) {
    std::string looked;
    for (const fs::path& place : places)
      looked += (looked.empty() ? "" : ", ") + core::printable(place.string(), kShownBytes);
    settings.missing_texts.push_back(fmt::format(
        "--calibration-preset {}: {} is not there{}; it may lie in a folder "
        "that --calibration-data or VORONOI_DATA names",
        settings.calibration_preset, looked,
        text.contains("get") ? ": " + core::printable(text.at("get").get<std::string>(), kShownBytes) : ""));
  }
  std::vector<std::int64_t> weight;
  const std::string given = text.contains("weight") ? text.at("weight").dump() : "1";
  if (const std::string problem = model::parse_weights(given, weight); !problem.empty() || weight.size() != 1)
    throw core::FormatError(list.file, "weight " + problem);
  settings.calibration_weights.push_back(weight.front());
}

}  // namespace

std::string preset_names() {
  std::string names;
  for (const KnownPreset& known : known_presets()) names += (names.empty() ? "" : ", ") + std::string(known.name);
  return names;
}

void take_preset(run::Settings& settings) {
  if (settings.calibration_preset.empty()) return;
  if (!settings.calibration_texts.empty() || !settings.calibration_weights.empty())
    throw core::ConfigError(
        "--calibration-preset: stands in place of --calibration-text and --calibration-weights; for a mixture of your "
        "own write a list like configs/calibration/debian.json");
  const PresetList list = find_preset(settings.calibration_preset);
  try {
    for (const core::Json& text : list.json.at("texts")) take_text(text, list, settings);
  } catch (const core::Json::exception& error) {
    throw core::FormatError(list.file,
                            fmt::format("is no list of texts, like configs/calibration/debian.json: {}", error.what()));
  }
  if (settings.calibration_texts.empty()) throw core::FormatError(list.file, "names no text");
}

}  // namespace voronoi::planning
