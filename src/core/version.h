// Which program this is.
#pragma once

namespace voronoi::core {

/// "0.1.0": of the program as it was built.
const char* program_version();

}  // namespace voronoi::core
