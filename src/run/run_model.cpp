#include "run/run_model.h"

#include <fmt/format.h>

#include <filesystem>

#include "core/error.h"

namespace voronoi::run {

RunModel open_run_model(const std::string& path, const std::string& original) {
  RunModel run;
  run.paths = store::RunPaths{path};
  run.identity = store::read_identity(run.paths);
  run.state = read_state(run.paths);
  if (!run.state.last_start) throw core::FormatError(path, "the run was never started; run quantize first");
  if (run.state.last_start->command == kCompare)
    throw core::FormatError(path, "is a comparison of several runs; name one of the run directories in it");
  const std::string& recorded = run.state.last_start->model;
  if (original.empty() && !std::filesystem::exists(recorded))
    throw core::StoreError(fmt::format(
        "{}: was made from the model {}, which is not there any more; name its new place with --original (export: "
        "--model), where its fingerprint is checked",
        path, recorded));
  run.original = model::open_model(original.empty() ? recorded : original);
  if (run.original->fingerprint() != run.identity.at("model").get<std::string>())
    throw core::FormatError(run.original->path(),
                            original.empty() ? "is no longer the model that " + path + " was made from; put it back"
                                             : "is not the model that " + path + " was made from, which was " +
                                                   recorded + " (a GGUF file is known by its name too)");
  run.tokenizer = run.state.last_start->tokenizer;
  if (run.tokenizer.empty()) run.tokenizer = run.original->path();
  for (const model::LinearSpec& linear : model::block_linears(run.original->config()))
    (run.state.layers.contains(linear.name)        ? run.linears
     : run.state.unquantized.contains(linear.name) ? run.unquantized
                                                   : run.missing)
        .push_back(linear.name);
  return run;
}

std::string run_label(const core::Json& identity, const RunState& state) {
  return fmt::format("{} {:.2f} bits", identity.at("quantization").at("method").get<std::string>(), true_bits(state));
}

}  // namespace voronoi::run
