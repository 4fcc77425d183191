#include <fmt/format.h>

#include <filesystem>

#include "comm/agreement.h"
#include "core/error.h"
#include "core/option.h"
#include "export/checkpoint.h"
#include "jobs/commands.h"
#include "store/run_directory.h"
#include "validation/verification.h"

namespace voronoi::jobs {
namespace {

validation::Verification verify_path(const comm::Communicator& world, const std::string& path) {
  bool is_run = false;
  comm::together(world, [&] {
    if (path.empty()) throw core::ConfigError("verify: what? give a directory");
    is_run = std::filesystem::exists(store::RunPaths{path}.identity());
    if (!is_run && !exporting::is_checkpoint(path))
      throw core::FormatError(
          path, "is neither a run directory (no run.json) nor a quantized checkpoint in a layout that is read");
  });
  return is_run ? validation::verify_run(world, path) : validation::verify_checkpoint(world, path);
}

void tell(const std::string& path, const validation::Verification& result, bool json) {
  if (json) {
    fmt::print("{}\n", core::Json{{"path", path},
                                  {"kind", result.kind},
                                  {"notes", result.notes},
                                  {"layers", result.layers},
                                  {"problems", result.problems}}
                           .dump());
  } else {
    for (const std::string& problem : result.problems) fmt::print("BAD  {}\n", problem);
    std::string notes;
    for (const std::string& note : result.notes) notes += "; " + note;
    fmt::print("{}: {}, {} of {} layers good, {} problems{}\n", path, result.kind, result.layers.size(),
               result.n_layers, result.problems.size(), notes);
  }
  if (!result.problems.empty())
    throw core::FormatError(path,
                            fmt::format("{} problems, the first: {}", result.problems.size(), result.problems[0]));
}

}  // namespace

int verify_main(const comm::Communicator& world, const Arguments& arguments) {
  std::string path;
  bool json = false;
  CommandSpec command;
  command.name = "verify";
  command.summary =
      "Reads a run or a VPTQ checkpoint again: every checksum, every layer decoded; an export beside the run it comes "
      "from.";
  command.usage = "[mpirun -n RANKS] voronoi verify RUN|DIR [--json]";
  command.positional = "path";
  command.options = {core::text_option("path", "DIR", "run directory or VPTQ checkpoint", path),
                     core::switch_option("json", "print JSON with the checksum of each decoded layer", json)};
  command.examples =
      "  voronoi verify runs/2bit\n  mpirun -n 8 voronoi verify runs/2bit\n  voronoi verify SmolLM2-135M-vptq --json\n";
  bool help = false;
  comm::together(world, [&] { help = parse_or_help(world, command, arguments, false); });
  if (help) return 0;
  const validation::Verification result = verify_path(world, path);
  comm::on_root(world, [&] { tell(path, result, json); });
  return 0;
}

}  // namespace voronoi::jobs
