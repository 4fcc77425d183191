// How a test leaves as skipped: the line that it prints is what tests/support/skips.py collects. skip.sh has the same
// for scripts.
#pragma once

#include <gtest/gtest.h>

#include <cstdlib>
#include <string_view>

namespace voronoi::test {

/// Whether nothing may be missing here (VORONOI_REQUIRE_ALL=1).
inline bool all_required() {
  const char* value = std::getenv("VORONOI_REQUIRE_ALL");
  return value != nullptr && std::string_view(value) == "1";
}

}  // namespace voronoi::test

/// What no package or file would change on this machine (no GPU, no right to mount).
#define VORONOI_SKIP_MACHINE(reason) GTEST_SKIP() << "SKIP (machine): " << (reason)

/// A program or data that could be here: a failure where all tests are required.
#define VORONOI_SKIP_MISSING(reason)                                                                               \
  do {                                                                                                             \
    if (::voronoi::test::all_required()) FAIL() << (reason) << "; nothing may be missing (VORONOI_REQUIRE_ALL=1)"; \
    GTEST_SKIP() << "SKIP (missing): " << (reason);                                                                \
  } while (false)
