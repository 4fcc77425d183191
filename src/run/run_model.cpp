#include "run/run_model.h"

#include <fmt/format.h>

#include "core/error.h"

namespace voronoi::run {

RunModel open_run_model(const std::string& path) {
  RunModel run;
  run.paths = store::RunPaths{path};
  run.identity = store::read_identity(run.paths);
  run.state = read_state(run.paths);
  if (!run.state.last_start) throw core::FormatError(path, "the run was never started; run quantize first");
  if (run.state.last_start->command == kCompare)
    throw core::FormatError(path, "is a comparison of several runs; name one of the run directories in it");
  run.original = model::open_model(run.state.last_start->model);
  if (run.original->fingerprint() != run.identity.at("model").get<std::string>())
    throw core::FormatError(run.original->path(),
                            "is no longer the model that " + path + " was made from; put it back");
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
