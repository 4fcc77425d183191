// What `status` tells of a run, as JSON, as text, and as a line among other runs.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "core/json.h"
#include "store/run_directory.h"

namespace voronoi::jobs {

/// The fields of `status --json`. Throws FormatError, StoreError.
core::Json collect_status(const store::RunPaths& paths);

/// Many lines, with a bar a stage while it runs.
std::string describe_status(const core::Json& status);
/// One line, for watching where nothing can be drawn again: "quantize, tasks 3/8 ...".
std::string progress_line(const core::Json& status);

/// Run directories in `directory` and in folders of it, by name; links are not followed, nor is a run searched. Throws
/// ConfigError when there is none.
std::vector<std::filesystem::path> runs_below(const std::filesystem::path& directory);
/// The status of one of many: what cannot be read is its state, not an error.
core::Json status_among_others(const std::filesystem::path& run);
/// A line a run: state, stage, progress, time left, layers, bits, problems.
std::string status_table(const std::vector<core::Json>& runs, const std::filesystem::path& directory);

}  // namespace voronoi::jobs
