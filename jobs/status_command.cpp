#include <fmt/format.h>

#include <chrono>
#include <optional>
#include <thread>

#include "core/error.h"
#include "core/log.h"
#include "core/option.h"
#include "core/output.h"
#include "core/whereabouts.h"
#include "jobs/commands.h"
#include "run/heartbeat.h"
#include "run/resume.h"
#include "run/run_state.h"

namespace voronoi::jobs {
namespace {

core::Json collect_status(const store::RunPaths& paths) {
  const core::Json identity = store::read_identity(paths);
  const run::RunState state = run::read_state(paths);
  core::Json status{{"run", paths.root.string()},
                    {"method", identity.at("quantization").at("method")},
                    {"start", state.start},
                    {"ranks", state.last_start ? state.last_start->ranks : 0},
                    {"layers_done", state.layers.size()},
                    {"bits_true", true_bits(state)},
                    {"stage_seconds", state.stage_seconds},
                    {"scheduling",
                     {{"tasks", state.scheduling.n_tasks},
                      {"task_seconds", state.scheduling.task_seconds},
                      {"waiting_seconds", state.scheduling.waiting_seconds},
                      {"coordinator_cpu_seconds", state.scheduling.coordinator_seconds}}},
                    {"failures", run::failures(state)},
                    {"resume", run::describe_resume(paths, state)},
                    {"state", state.finished ? "finished" : "not running"}};
  const std::optional<run::Heartbeat> live = run::read_heartbeat(paths);
  if (!live) return status;
  status["layers_total"] = live->layers;
  // A comparison has no layers of its own; its heartbeats count those of its runs.
  if (state.last_start && state.last_start->command == run::kCompare) status["layers_done"] = live->layers_done;
  if (state.finished || live->start != state.start) return status;
  status["heartbeat_age_seconds"] = core::unix_time() - live->updated;
  if (!live->ended.empty()) status["state"] = live->ended;
  if (!run::is_alive(*live, state)) return status;
  status["state"] = "running";
  status["eta_seconds"] = live->eta_seconds();
  status["stage_eta_seconds"] = live->stages;
  status["stage"] = live->stage;
  status["doing"] = live->doing;
  status["tokens_per_second"] = live->tokens_per_second;
  status["workers"] = live->workers;
  return status;
}

std::string describe(const core::Json& status) {
  std::string text = fmt::format("{}: {}, method {}, start {} on {} rank(s)\n", status.at("run").get<std::string>(),
                                 status.at("state").get<std::string>(), status.at("method").get<std::string>(),
                                 core::whole_number(status.at("start")), core::whole_number(status.at("ranks")));
  text += fmt::format(
      "  layers  {}{} done, {:.3f} true bits a weight\n", core::whole_number(status.at("layers_done")),
      status.contains("layers_total") ? fmt::format(" of {}", core::whole_number(status.at("layers_total"))) : "",
      status.at("bits_true").get<double>());
  for (const auto& [stage, seconds] : status.at("stage_seconds").items())
    text += fmt::format("  {:<10}{}\n", stage, core::format_duration(seconds.get<double>()));
  const core::Json& scheduling = status.at("scheduling");
  if (const double tasks = scheduling.at("task_seconds").get<double>(); tasks > 0)
    text += fmt::format(
        "  tasks   {} in {}; of that time ranks waited {:.2g} % between tasks, the coordinator took {:.2g} %\n",
        scheduling.at("tasks").get<std::int64_t>(), core::format_duration(tasks),
        100 * scheduling.at("waiting_seconds").get<double>() / tasks,
        100 * scheduling.at("coordinator_cpu_seconds").get<double>() / tasks);
  if (status.contains("stage")) {
    text += fmt::format("  now     {}", status.at("stage").get<std::string>());
    if (const auto doing = status.at("doing").get<std::string>(); !doing.empty()) text += ", " + doing;
    if (const double rate = status.at("tokens_per_second").get<double>(); rate > 0)
      text += fmt::format(", {:.0f} tokens/s", rate);
    text += "\n";
  }
  if (status.contains("eta_seconds") && status.at("eta_seconds").get<double>() > 0)
    text += fmt::format("  left    about {}\n", core::format_duration(status.at("eta_seconds").get<double>()));
  if (status.contains("stage_eta_seconds") && status.at("stage_eta_seconds").size() > 1)
    for (const auto& [stage, seconds] : status.at("stage_eta_seconds").items())
      text += fmt::format("    {:<10}{}\n", stage, core::format_duration(seconds.get<double>()));
  if (status.contains("workers"))
    for (const core::Json& worker : status.at("workers")) {
      const auto task = worker.at("task").get<std::string>();
      text += fmt::format("  rank {:<4}{}\n", core::whole_number(worker.at("rank")), task.empty() ? "idle" : task);
    }
  for (const auto& [task, error] : status.at("failures").items())
    text += fmt::format("  FAILED  {}: {}\n", task, error.get<std::string>());
  if (status.at("state") != "running" && status.at("state") != "finished")
    text += fmt::format("  resume  {}\n", status.at("resume").get<std::string>());
  return text;
}

}  // namespace

int status_main(const comm::Communicator& world, const Arguments& arguments) {
  std::string run;
  bool json = false, watch = false;
  CommandSpec command;
  command.name = "status";
  command.summary = "Progress of a run, live or dead, from any shell.";
  command.usage = "voronoi status RUN [--watch] [--json]";
  command.positional = "run";
  command.options = {core::text_option("run", "DIR", "run directory", run),
                     core::switch_option("watch", "again every two seconds until the run ends", watch),
                     core::switch_option("json", "print JSON", json)};
  command.examples = "  voronoi status runs/2bit --watch\n";
  if (parse_or_help(world, command, arguments, false)) return 0;
  if (run.empty()) throw core::ConfigError("status: which run? give its directory");
  for (;;) {
    const core::Json status = collect_status(store::RunPaths{run});
    fmt::print("{}", json ? status.dump() + "\n" : describe(status));
    core::flush_output();
    if (!watch || status.at("state") != "running") return 0;
    std::this_thread::sleep_for(std::chrono::seconds(2));
  }
}

}  // namespace voronoi::jobs
