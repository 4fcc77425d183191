#include "core/heap.h"

#include <cstdlib>

#ifdef __GLIBC__
#include <malloc.h>
#endif

namespace voronoi::core {

void give_back_free_pages() {
#ifdef __GLIBC__
  ::malloc_trim(0);
#endif
}

}  // namespace voronoi::core
