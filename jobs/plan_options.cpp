#include "jobs/plan_options.h"

#include <algorithm>
#include <charconv>
#include <iterator>
#include <utility>

#include "core/error.h"
#include "planning/bits.h"
#include "planning/model_sizes.h"

namespace voronoi::jobs {
namespace {

/// "80GiB", "512 MiB", "80G" (the same as GiB), "1000" (bytes).
core::OptionSpec size_option(std::string name, std::string help, std::int64_t& target) {
  return {std::move(name), "SIZE", std::move(help),
          [&target](const std::string& text) -> std::string {
            double value = 0;
            const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
            std::string unit(end, text.data() + text.size());
            unit.erase(0, unit.find_first_not_of(' ') == std::string::npos ? unit.size() : unit.find_first_not_of(' '));
            static constexpr std::pair<const char*, double> kUnits[] = {
                {"", 1},       {"KiB", 0x1p10}, {"MiB", 0x1p20}, {"GiB", 0x1p30}, {"TiB", 0x1p40}, {"K", 0x1p10},
                {"M", 0x1p20}, {"G", 0x1p30},   {"T", 0x1p40},   {"MB", 1e6},     {"GB", 1e9},     {"TB", 1e12}};
            const auto* found = std::find_if(std::begin(kUnits), std::end(kUnits),
                                             [&](const auto& known) { return unit == known.first; });
            if (error != std::errc() || found == std::end(kUnits) || !(value > 0) || value * found->second > 0x1p60)
              return "must be a size like 80GiB, not '" + text + "'";
            target = static_cast<std::int64_t>(value * found->second);
            return {};
          },
          false};
}

}  // namespace

std::vector<core::OptionSpec> memory_and_rates_options(planning::Resources& resources) {
  return {
      size_option("gpu-memory", "memory of a GPU: a plan that needs more is refused [80GiB]", resources.gpu_memory),
      size_option("node-memory", "memory of a node: a plan that needs more is refused [not checked]",
                  resources.node_memory),
      core::text_option("rates", "FILE", "predict by the rates of this file, which bench_gpu writes",
                        resources.rates_file),
  };
}

std::vector<run::GivenOption> options_to_submit(const std::vector<core::OptionSpec>& of_quantize,
                                                const std::vector<run::GivenOption>& given) {
  std::vector<run::GivenOption> options;
  for (run::GivenOption option : given) {
    const auto spec = std::find_if(of_quantize.begin(), of_quantize.end(),
                                   [&](const core::OptionSpec& known) { return known.name == option.name; });
    if (spec == of_quantize.end()) continue;
    const bool is_switch = spec->argument.empty();
    if (is_switch && option.value != "true") continue;
    if (is_switch) option.value.clear();
    options.push_back(std::move(option));
  }
  return options;
}

planning::PlanRequest prepare_plan(run::Settings& options, std::vector<run::GivenOption> given,
                                   const planning::Resources& resources, std::vector<std::string> problems) {
  if (!problems.empty()) throw core::ConfigError(problems);
  // Before anything large is read.
  planning::Resources with_program = resources;
  with_program.program_bytes = planning::resident_bytes() + planning::kMpiBytes;
  const model::ModelConfig config = planning::read_model_config(options.model);
  planning::resolve_bits(options, config);
  problems = planning::shape_problems(run::run_parameters(options), config);
  if (!problems.empty()) throw core::ConfigError(problems);
  return planning::make_request(options, std::move(given), config, with_program);
}

}  // namespace voronoi::jobs
