// What `compare --preset` stands for: the files of configs/presets, which are part of the program.
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/json.h"

namespace voronoi::jobs {

struct PresetFile {
  std::string_view name, json;
};
const std::vector<PresetFile>& preset_files();

/// Options by their names, as the command line has them.
using OptionValues = std::vector<std::pair<std::string, std::string>>;

struct PresetMethod {
  std::string method;
  std::vector<std::string> bits;
  OptionValues settings;  ///< parameters of the method
};

struct Preset {
  std::string about;
  OptionValues options;  ///< of compare, where they are not given
  std::string tasks;     ///< asked where there is --task-data
  bool quoted = false;   ///< published figures stand beside the table
  std::vector<PresetMethod> methods;
};

std::vector<std::string> preset_names();
/// What a file holds:
///   about    a line for people
///   options  {name: value}
///   tasks    as --tasks takes them
///   quoted   true or false
///   methods  {name: {"bits": "2,3", parameter: value, ...}}: adding one is a line
/// Throws FormatError naming `file`.
Preset parse_preset(const core::Json& json, const std::string& file);
/// One of preset_names().
Preset find_preset(std::string_view name);

}  // namespace voronoi::jobs
