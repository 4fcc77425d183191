// Lists of calibration texts: the files of configs/calibration, part of the program, or others like them. A list names
// files with their weights and how to get them; it holds no texts.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "run/settings.h"

namespace voronoi::planning {

struct KnownPreset {
  std::string_view name, json;
};
const std::vector<KnownPreset>& known_presets();

/// Their names, separated by commas.
std::string preset_names();

/// Puts the texts of --calibration-preset and their weights into the settings; nothing where there is none. A file is
/// looked for in --calibration-data, or else $VORONOI_DATA, or else beside the list, and then in the folder that the
/// list says; `missing_texts` tells what was not found, and how to get it. Throws ConfigError for an unknown name, and
/// where
/// --calibration-text or --calibration-weights stand beside it; FormatError / StoreError for a list that cannot be
/// read.
void take_preset(run::Settings& settings);

}  // namespace voronoi::planning
