// Sizes and places are signed here, those of the standard library are not.
#pragma once

#include <cstddef>
#include <cstdint>

namespace voronoi::core {

/// A place or size that is known not to be negative, as the standard library wants it.
constexpr std::size_t index(std::int64_t value) { return static_cast<std::size_t>(value); }

}  // namespace voronoi::core
