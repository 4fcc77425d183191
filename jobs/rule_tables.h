// Tables [[rules]] at the end of a config file:
//   [[rules]]
//   match = model.layers.*.mlp.down_proj   # the pattern; quotes around values are allowed
//   bits = 3
#pragma once

#include <istream>
#include <string>
#include <vector>

namespace voronoi::jobs {

/// A config file: lines of options, then tables.
struct ConfigText {
  struct Table {
    std::string place;  ///< "[[rules]] 2 (line 14)"
    std::string rule;   ///< "PATTERN NAME=VALUE ..."
  };
  std::string options;  ///< the lines before the first [[rules]]
  std::vector<Table> tables;
  std::vector<std::string> problems;  ///< each with its place
};

ConfigText read_config(std::istream& file);

}  // namespace voronoi::jobs
