#include "run/heartbeat.h"

#include <filesystem>

#include "core/error.h"
#include "core/log.h"

namespace voronoi::run {

void HeartbeatWriter::write(const Heartbeat& heartbeat) {
  const core::Json json{{"attempt", heartbeat.attempt},         {"stage", heartbeat.stage},
                        {"updated", heartbeat.updated},         {"layers", heartbeat.layers},
                        {"eta_seconds", heartbeat.eta_seconds}, {"workers", heartbeat.workers}};
  try {
    attempt_.publish(attempt_.paths().status(), core::seal_json(json).dump() + "\n");
  } catch (const store::Superseded&) {
    throw;
  } catch (const core::StoreError& error) {
    if (!warned_)
      core::log_warning("{}; the run goes on, `voronoi status` will not show what it does now", error.what());
    warned_ = true;
  }
}

std::optional<Heartbeat> read_heartbeat(const store::RunPaths& paths) {
  const std::string file = paths.status().string();
  if (!std::filesystem::exists(file)) return std::nullopt;
  try {
    const core::Json json = core::read_sealed_json(file, "a live run writes it anew");
    Heartbeat heartbeat;
    heartbeat.attempt = core::whole_number(json.at("attempt"));
    heartbeat.stage = json.at("stage").get<std::string>();
    heartbeat.updated = json.at("updated").get<double>();
    heartbeat.layers = core::whole_number(json.at("layers"));
    heartbeat.eta_seconds = json.at("eta_seconds").get<double>();
    heartbeat.workers = json.at("workers");
    return heartbeat;
  } catch (const core::FormatError& error) {
    core::log_warning("{}", error.what());
  } catch (const core::Json::exception& error) {
    core::log_warning("{}: is of another version: {}", file, error.what());
  }
  return std::nullopt;
}

}  // namespace voronoi::run
