// What a rendering may take: a template is a file that somebody else has written.
#pragma once

#include <cstddef>
#include <cstdint>

namespace voronoi::model::jinja {

struct Limits {
  std::int64_t steps = 4'000'000;
  std::size_t bytes = std::size_t{1} << 28;  ///< of all strings that are made
};

}  // namespace voronoi::model::jinja
