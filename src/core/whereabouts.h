// When and where: what records of a run carry.
#pragma once

#include <string>

namespace voronoi::core {

/// Seconds since 1970.
double unix_time();

/// This machine's name.
std::string host_name();

}  // namespace voronoi::core
