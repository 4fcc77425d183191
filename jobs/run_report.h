// Reports of runs from what their journals and evaluations say.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "store/run_directory.h"

namespace voronoi::jobs {

/// Writes report.md and report.json of the runs into `directory` (created); returns the Markdown file's path.
std::filesystem::path write_run_report(const std::vector<store::RunPaths>& runs,
                                       const std::filesystem::path& directory);

/// "voronoi 2.08 bits": how a run is called in tables.
std::string run_label(const store::RunPaths& run);

}  // namespace voronoi::jobs
