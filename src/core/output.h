// Standard output as a result that somebody waits for.
#pragma once

#include "core/error.h"

namespace voronoi::core {

/// Flushes stdout. Throws StoreError when what was printed did not get through: a result that its reader lacks is a
/// failure, whatever else went well.
void flush_output();
StoreError output_error(int error);

}  // namespace voronoi::core
