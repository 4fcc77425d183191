#include "jobs/presets.h"

#include "core/error.h"
#include "core/words.h"

namespace voronoi::jobs {

std::vector<std::string> preset_names() {
  std::vector<std::string> names;
  for (const PresetFile& file : preset_files()) names.emplace_back(file.name);
  return names;
}

Preset parse_preset(const core::Json& json, const std::string& file) {
  Preset preset;
  try {
    preset.about = json.at("about").get<std::string>();
    preset.tasks = json.value("tasks", "");
    preset.quoted = json.value("quoted", false);
    if (const auto options = json.find("options"); options != json.end())
      for (const auto& [name, value] : options->items()) preset.options.emplace_back(name, value.get<std::string>());
    for (const auto& [name, settings] : json.at("methods").items()) {
      PresetMethod method{name, core::words_of_list(settings.at("bits").get<std::string>()), {}};
      for (const auto& [option, value] : settings.items())
        if (option != "bits") method.settings.emplace_back(option, value.get<std::string>());
      preset.methods.push_back(std::move(method));
    }
  } catch (const core::Json::exception& error) {
    throw core::FormatError(file, std::string("is no preset: ") + error.what());
  }
  return preset;
}

Preset find_preset(std::string_view name) {
  for (const PresetFile& file : preset_files())
    if (file.name == name) return parse_preset(core::parse_json(file.json, file.name), std::string(file.name));
  throw core::ConfigError("--preset: there is none called " + std::string(name));
}

}  // namespace voronoi::jobs
