#include "core/words.h"

#include <algorithm>

namespace voronoi::core {

std::vector<std::string> words_of_list(std::string_view list) {
  std::vector<std::string> words;
  if (list.empty()) return words;
  for (std::size_t at = 0; at <= list.size();) {
    const std::size_t end = std::min(list.find(',', at), list.size());
    words.emplace_back(list.substr(at, end - at));
    at = end + 1;
  }
  return words;
}

}  // namespace voronoi::core
