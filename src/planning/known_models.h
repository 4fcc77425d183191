// Models that `plan` knows by name: the files of configs/models, part of the program.
#pragma once

#include <string_view>
#include <vector>

namespace voronoi::planning {

struct KnownModel {
  std::string_view name, json;
};
const std::vector<KnownModel>& known_models();

}  // namespace voronoi::planning
