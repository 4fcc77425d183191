// Reports of runs from what their journals and evaluations say.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "core/json.h"
#include "run/run_model.h"
#include "store/run_directory.h"
#include "validation/quoted.h"
#include "validation/report_figures.h"

namespace voronoi::validation {

struct RunReport {
  std::string markdown, html;
  core::Json json;      ///< with `markdown_sha256` and `html_sha256`, sealed (core::seal_json)
  std::string picture;  ///< perplexity_picture of all figures, for who wants it in a file: write_run_report does not
};
/// What is known of a run's quality. Throws FormatError / StoreError.
Figures run_figures(const store::RunPaths& run);
/// Of one or many runs; quoted figures of papers stand below theirs. Throws FormatError / StoreError.
RunReport make_run_report(const std::vector<store::RunPaths>& runs, const QuotedTable& quoted = {});
/// Writes STEM.html, STEM.md and STEM.json into `directory` (created); returns the page's path. Throws StoreError.
std::filesystem::path write_run_report(const RunReport& report, const std::filesystem::path& directory,
                                       const std::string& stem = "report");
/// Into the run's own report directory, made anew until it holds what the run does: others may do the same meanwhile.
void refresh_run_report(const store::RunPaths& run);
/// What is wrong with the files of a run's report directory; nothing when there are none.
std::vector<std::string> check_run_report(const std::filesystem::path& directory);

}  // namespace voronoi::validation
