#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "core/file.h"
#include "core/hash.h"
#include "jobs/commands.h"
#include "jobs/evaluation.h"
#include "jobs/layer_store.h"
#include "jobs/run_state.h"
#include "store/journal.h"

namespace voronoi::jobs {
namespace {

/// Throws when anything about the layer's file is not as journalled or does not decode.
void verify_layer(const store::RunPaths& paths, const LayerRecord& layer) {
  const std::string file = paths.layer(layer.name).string();
  if (core::sha256(core::MappedFile(file).bytes()) != layer.sha256)
    throw core::FormatError(
        file, "is not the file that was journalled (checksum); run the quantize command again, it will be made again");
  const quant::Encoding encoding = read_layer(paths, layer.name);
  if (quant::stored_bits(encoding) != layer.stored_bits)
    throw core::FormatError(file, "holds another number of bits than journalled");
  std::vector<float> weight(static_cast<std::size_t>(quant::out_features(encoding) * quant::in_features(encoding)));
  if (static_cast<std::int64_t>(weight.size()) != layer.weights)
    throw core::FormatError(file, "has another shape than journalled");
  quant::decode(encoding, weight);
  if (!std::all_of(weight.begin(), weight.end(), [](float value) { return std::isfinite(value); }))
    throw core::FormatError(file, "decodes to numbers that are not finite");
}

}  // namespace

int verify_main(const comm::Communicator& world, const Arguments& arguments) {
  std::string run;
  CommandSpec command;
  command.name = "verify";
  command.summary = "Reads a whole run again: identity, journal, every checksum, every layer decoded.";
  command.usage = "voronoi verify RUN";
  command.positional = "run";
  command.options = {text_option("run", "DIR", "run directory", run)};
  command.examples = "  voronoi verify runs/2bit\n";
  if (parse_or_help(world, command, arguments, false)) return 0;
  if (run.empty()) throw core::ConfigError("verify: which run? give its directory");

  const store::RunPaths paths{run};
  store::read_identity(paths);
  const RunState state = replay(store::Journal::read(paths.journal()), paths.journal().string());
  std::vector<std::string> problems;
  for (const auto& [name, layer] : state.layers) {
    try {
      verify_layer(paths, layer);
    } catch (const core::Error& error) {
      problems.emplace_back(error.what());
    }
  }
  stored_evaluations(paths);
  for (const std::string& problem : problems) fmt::print("BAD  {}\n", problem);
  fmt::print("{}: {} layers verified, {} bad{}\n", run, state.layers.size() - problems.size(), problems.size(),
             state.finished ? "" : "; the run is not finished");
  if (!problems.empty())
    throw core::FormatError(run, fmt::format("{} of {} layers are bad", problems.size(), state.layers.size()));
  return 0;
}

}  // namespace voronoi::jobs
