#include "core/version.h"

namespace voronoi::core {

const char* program_version() { return VORONOI_VERSION; }

}  // namespace voronoi::core
