// The files of validation/tasks, which are part of the program.
#pragma once

#include <string_view>
#include <vector>

namespace voronoi::validation {

struct BuiltInTask {
  std::string_view name, json;
};

const std::vector<BuiltInTask>& built_in_task_files();

}  // namespace voronoi::validation
