// What `plan` and `submit` share: options about the machine, and the request that a plan is made from.
#pragma once

#include <vector>

#include "core/option.h"
#include "planning/request.h"
#include "run/settings.h"

namespace voronoi::jobs {

/// --gpu-memory, --node-memory, --rates.
std::vector<core::OptionSpec> memory_and_rates_options(planning::Resources& resources);

/// Those of `given` that a job of `quantize` takes too; a switch that is on comes without value, one that is off not at
/// all.
std::vector<run::GivenOption> options_to_submit(const std::vector<core::OptionSpec>& of_quantize,
                                                const std::vector<run::GivenOption>& given);

/// Resolves --bits and checks the parameters against the model's shapes. `problems`: found so far, told with those that
/// are found before the model is looked at. Nothing of the model is read but its configuration. Throws ConfigError and
/// what reading throws.
planning::PlanRequest prepare_plan(run::Settings& options, std::vector<run::GivenOption> given,
                                   const planning::Resources& resources, std::vector<std::string> problems);

}  // namespace voronoi::jobs
