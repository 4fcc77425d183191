#include "core/output.h"

#include <cerrno>
#include <cstdio>

#include "core/file.h"

namespace voronoi::core {

/// Never of the node: the reader of the output has gone or is full.
StoreError output_error(int error) {
  return StoreError(system_error("standard output", "write the result", error).what());
}

void flush_output() {
  if (std::fflush(stdout) != 0) throw output_error(errno);
  if (std::ferror(stdout) != 0) throw output_error(EIO);  // an earlier write; its reason is gone
}

}  // namespace voronoi::core
