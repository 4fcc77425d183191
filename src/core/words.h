// Lists as options have them.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace voronoi::core {

/// What stands between the commas, empty words too, which whoever looks the words up refuses; of an empty list nothing.
std::vector<std::string> words_of_list(std::string_view list);

}  // namespace voronoi::core
