// The report as one page that needs nothing beside itself: no network, no script. Knows figures, not where they come
// from.
#pragma once

#include <string>

#include "validation/report.h"

namespace voronoi::validation {

/// HTML with inline pictures, each with the table of its numbers. All names are escaped.
std::string report_html(const Report& report);

}  // namespace voronoi::validation
