// Files that stand in the place of others: what a clone without git-lfs leaves, and what a refused download leaves.
#pragma once

#include <string_view>

namespace voronoi::core {

/// Throws FormatError naming `file` and the remedy when its first bytes are those of a git-lfs pointer.
void refuse_pointer(std::string_view bytes, std::string_view file);

/// The same, and of a web page; for files that are never pages themselves.
void refuse_stand_in(std::string_view bytes, std::string_view file);

}  // namespace voronoi::core
