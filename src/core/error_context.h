// What was being done when an error arose, told with it.
#pragma once

#include <string_view>

#include "core/error.h"

namespace voronoi::core {

/// work(), with `context` before the message of an E that it throws.
template <class E, class Work>
decltype(auto) with_context(std::string_view context, const Work& work) {
  try {
    return work();
  } catch (E& error) {
    error.add_context(context);
    throw;
  }
}

}  // namespace voronoi::core
