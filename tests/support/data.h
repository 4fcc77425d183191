// Test data that lies beside the project, when it does.
#pragma once

#include <gtest/gtest.h>

#include <filesystem>
#include <string>

#include "support/skip.h"

namespace voronoi::test {

inline std::string data_path(const std::string& relative) { return std::string(VORONOI_TEST_DATA) + "/" + relative; }
inline bool has_data(const std::string& relative) { return std::filesystem::exists(data_path(relative)); }

}  // namespace voronoi::test

/// Leaves the running test as skipped, with the reason, when the data is absent.
#define VORONOI_NEEDS_DATA(relative)                                                   \
  do {                                                                                 \
    if (!::voronoi::test::has_data(relative))                                          \
      VORONOI_SKIP_MISSING("no test data at " + ::voronoi::test::data_path(relative)); \
  } while (false)
