#include <fmt/format.h>
#include <unistd.h>

#include <filesystem>

#include "core/error.h"
#include "core/log.h"
#include "core/option.h"
#include "core/stop.h"
#include "core/whereabouts.h"
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
  command.usage = "voronoi export RUN --out DIR [--format NAME] [--model PATH]";
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
      "It holds one layer at a time and publishes by rename: --out is there whole or not at all.\n";
  if (parse_or_help(world, command, arguments, false)) return 0;
  std::vector<std::string> problems;
  if (path.empty()) problems.emplace_back("export: which run? give its directory");
  if (out.empty()) problems.emplace_back("--out: is missing; give the directory to write");
  if (!problems.empty()) throw core::ConfigError(problems);

  core::install_stop_handlers();
  run::RunModel run = run::open_run_model(path, model);
  if (!tokenizer.empty()) run.tokenizer = tokenizer;
  // A trailing slash would make the temporary directory one inside.
  std::filesystem::path directory = std::filesystem::path(out).lexically_normal();
  if (directory.filename().empty()) directory = directory.parent_path();
  if (directory.has_parent_path()) std::filesystem::create_directories(directory.parent_path());
  const std::string temporaries = directory.string() + fmt::format(".tmp-{}.", core::host_name());
  exporting::remove_abandoned(temporaries);
  stages::export_run(
      {run.paths, run.state, *run.original, run.tokenizer, run.method()},
      {layout, *exporting::profile_from_name(profile)}, directory, temporaries + std::to_string(::getpid()),
      [](const std::string& what, std::size_t done, std::size_t total) {
        if (core::stop_requested()) throw core::StopRequested();
        core::show_progress(fmt::format("exporting ({}): {} of {} layers", what, done, total), done == total);
      });
  fmt::print("{}: {} layers exported\n", directory.string(), run.linears.size());
  return 0;
}

}  // namespace voronoi::jobs
