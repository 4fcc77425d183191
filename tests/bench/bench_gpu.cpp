// Speed of a GPU's kernels beside ceilings measured in the same run, and the hours of whole jobs predicted from it.
// Writes table.md, results.json and rates.json (for `voronoi plan --rates`).
#include "bench/bench_gpu.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cstdio>
#include <exception>
#include <filesystem>
#include <iterator>

#include "core/error.h"
#include "core/file.h"
#include "jobs/command_line.h"

namespace voronoi::bench {
namespace {

struct Part {
  const char* name;
  void (*measure)(Bench&);
};
constexpr Part kParts[] = {{"assignment", measure_assignment},   {"kmeans", measure_kmeans},
                           {"hessian", measure_hessian},         {"cholesky", measure_cholesky},
                           {"column_loop", measure_column_loop}, {"gemv", measure_gemv},
                           {"forward", measure_forward},         {"operator", measure_operator}};
constexpr const char* kPredict = "predict";

int run(const std::vector<std::string>& arguments) {
  std::vector<std::string> parts;
  std::string device = "cuda", out = ".";
  bool tiny = false;
  int threads = 8;
  std::vector<std::string> names;
  for (const Part& part : kParts) names.emplace_back(part.name);
  names.emplace_back(kPredict);
  jobs::CommandSpec command;
  command.name = "bench_gpu";
  command.summary =
      "Measures the kernels of a device. The ceilings (memory, tf32, bf16, fp64) are measured in every run.";
  command.usage = "bench_gpu [PART...] [--tiny] [--device cuda|cpu] [--out DIR]";
  command.positional = "part";
  command.options = {core::list_option("part", "PART", fmt::format("of {} [all]", fmt::join(names, ", ")), parts),
                     core::switch_option("tiny", "sizes of a moment: runs every line, measures nothing", tiny),
                     core::choice_option("device", "whose kernels", device, {"cuda", "cpu"}),
                     core::integer_option("threads", "CPU threads", threads, 1, 1024),
                     core::text_option("out", "DIR", "folder of table.md, results.json and rates.json", out)};
  const jobs::ParseResult parsed = jobs::parse(command, arguments, false);
  if (parsed.help) {
    fmt::print("{}", jobs::help_text(command, false));
    return 0;
  }
  std::vector<std::string> problems = parsed.problems;
  for (const std::string& part : parts)
    if (std::find(names.begin(), names.end(), part) == names.end())
      problems.push_back(fmt::format("there is no part '{}'; there are {}", part, fmt::join(names, ", ")));
  if (!problems.empty()) throw core::ConfigError(problems);
  const auto wanted = [&](const char* name) {
    return parts.empty() || std::find(parts.begin(), parts.end(), name) != parts.end();
  };

  backend::Context context(device == "cuda" ? backend::Device::cuda : backend::Device::cpu, threads);
  std::filesystem::create_directories(out);
  Bench bench(context, tiny);
  fmt::print("{}\n", bench.device());
  std::vector<Prediction> predictions;
  std::vector<std::string> failures;
  const auto publish = [&] {
    const std::filesystem::path folder(out);
    core::write_file_atomic(folder / "table.md", table_text(bench, predictions, failures), "bench");
    core::write_file_atomic(folder / "results.json", results_json(bench, predictions, failures).dump(1) + "\n",
                            "bench");
  };
  measure_ceilings(bench);
  for (const Part& part : kParts) {
    if (!wanted(part.name)) continue;
    try {
      part.measure(bench);
    } catch (const core::Error& error) {  // the other parts are still worth having
      failures.push_back(fmt::format("{}: {}", part.name, error.what()));
      fmt::print(stderr, "{}\n", failures.back());
    }
    publish();  // whatever ends this run, what was measured is kept
  }
  if (wanted(kPredict)) {
    predictions = predict(bench);
    core::write_file_atomic(std::filesystem::path(out) / "rates.json",
                            planning::rates_json(measured_rates(bench, 6, 4096)).dump(1) + "\n", "bench");
  }
  publish();
  fmt::print("\n{}", table_text(bench, predictions, failures));
  return failures.empty() ? 0 : 1;
}

}  // namespace
}  // namespace voronoi::bench

int main(int argc, char** argv) {
  try {
    return voronoi::bench::run({argv + 1, argv + argc});
  } catch (const voronoi::core::Error& error) {
    fmt::print(stderr, "bench_gpu: {}\n", error.what());
    return static_cast<int>(error.exit_code());
  } catch (const std::exception& error) {
    fmt::print(stderr, "bench_gpu: {}\n", error.what());
    return 1;
  }
}
