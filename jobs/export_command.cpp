#include <fmt/format.h>

#include <exception>
#include <filesystem>
#include <optional>

#include "comm/agreement.h"
#include "core/error.h"
#include "core/log.h"
#include "core/option.h"
#include "core/stop.h"
#include "export/writer.h"
#include "jobs/commands.h"
#include "jobs/quantize_options.h"
#include "run/run_model.h"
#include "stages/export.h"

namespace voronoi::jobs {

int export_main(const comm::Communicator& world, const Arguments& arguments) {
  std::string path, out, model, tokenizer, layout = "auto", profile = "safe";
  CommandSpec command;
  command.name = "export";
  command.summary = "Writes a run as a Hugging Face checkpoint in a public layout, which transformers and vLLM load.";
  command.usage = "[mpirun -n RANKS] voronoi export RUN --out DIR [--format NAME] [--model PATH]";
  command.positional = "run";
  command.options = {core::text_option("run", "DIR", "run directory", path),
                     core::text_option("out", "DIR", "directory to write: new, or empty", out),
                     core::text_option("model", "PATH",
                                       "where the model that the run was made from is now, when it moved; it must be "
                                       "the same, by its fingerprint",
                                       model),
                     core::text_option("tokenizer", "PATH",
                                       "tokenizer file or directory to put beside it, when it "
                                       "moved or another is wanted",
                                       tokenizer),
                     export_layout_option("format", layout),
                     export_profile_option(profile)};
  command.examples =
      "  voronoi export runs/2bit --out SmolLM2-135M-vptq\n"
      "  voronoi export runs/gptq --out SmolLM2-135M-gptq --format gptq\n"
      "  voronoi verify SmolLM2-135M-vptq\n"
      "  mpirun -n 4 voronoi export runs/70b --out Llama-3.1-70B-vptq\n"
      "Each rank writes files of its own and holds one layer at a time. --out is there whole or not at all: until "
      "then\n"
      "the files are in DIR.unfinished, and the same command goes on with those that are whole.\n";
  if (parse_or_help(world, command, arguments, false)) return 0;
  std::vector<std::string> problems;
  if (path.empty()) problems.emplace_back("export: which run? give its directory");
  if (out.empty()) problems.emplace_back("--out: is missing; give the directory to write");
  comm::together(world, [&] {
    if (!problems.empty()) throw core::ConfigError(problems);
  });

  core::install_stop_handlers();
  run::RunModel run;
  // A trailing slash would make the unfinished directory one inside.
  std::filesystem::path directory = std::filesystem::path(out).lexically_normal();
  if (directory.filename().empty()) directory = directory.parent_path();
  const exporting::UnfinishedExport place(directory.string() + ".unfinished");
  comm::together(world, [&] {
    run = run::open_run_model(path, model);
    if (!tokenizer.empty()) run.tokenizer = tokenizer;
  });
  std::optional<exporting::DirectoryLock> lock;
  comm::on_root(world, [&] {
    exporting::require_room_for_export(directory);
    lock.emplace(place.directory());
  });
  try {
    stages::export_run(world, {run.paths, run.state, *run.original, run.tokenizer, run.method()},
                       {layout, *exporting::profile_from_name(profile)}, place,
                       [&](const std::string& what, std::size_t done, std::size_t total) {
                         if (core::stop_requested()) throw core::StopRequested();
                         if (world.rank() == 0)
                           core::show_progress(fmt::format("exporting ({}): {} of {} layers", what, done, total),
                                               done == total);
                       });
    comm::on_root(world, [&] { exporting::publish_export(place, directory); });
  } catch (const core::Error&) {  // the same on every rank, see there
    const std::exception_ptr refused = std::current_exception();
    if (lock) exporting::leave_unfinished(place);
    comm::together(world, [&] { std::rethrow_exception(refused); });
  } catch (...) {
    if (lock) exporting::leave_unfinished(place);
    throw;
  }
  if (world.rank() == 0) fmt::print("{}: {} layers exported\n", directory.string(), run.linears.size());
  return 0;
}

}  // namespace voronoi::jobs
