// The allocator's heap.
#pragma once

namespace voronoi::core {

/// Gives pages of the heap in which nothing lives back to the system. It does so by itself only behind the last block
/// in use: after gigabytes that came and went beside small blocks that stay, those gigabytes would stay too. Takes
/// about as long as the pages take to be touched again.
void give_back_free_pages();

}  // namespace voronoi::core
