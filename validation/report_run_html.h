// The part of the page that is about one run.
#pragma once

#include <string>

#include "validation/report.h"

namespace voronoi::validation {

/// "SmolLM2-135M": the last part of the model's path, as the last start named it; empty when it did not.
std::string model_name(const RunSection& run);

/// What was done in sentences: model and bits, method and calibration, time and ranks.
std::string run_sentences(const RunSection& run);

/// `id`: of the section's heading.
std::string run_section(const RunSection& run, const std::string& id);

// Its parts, a file each.
std::string layers_part(const RunSection& run);    ///< heat map, operators, worst layers
std::string work_part(const RunSection& run);      ///< time line, stages, starts, machine
std::string tuning_part(const RunSection& run);    ///< empty where nothing was tuned
std::string problems_part(const RunSection& run);  ///< failures, fallbacks, starved experts, mishaps

}  // namespace voronoi::validation
