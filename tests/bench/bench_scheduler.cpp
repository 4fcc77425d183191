// What handing out tasks costs: synthetic tasks of one length over the ranks of an mpirun, each with a report as long
// as a real one, journalled and synced as a run does.
//   mpirun -n 16 bench_scheduler [--tasks 10000] [--milliseconds 1] [--work spin|sleep] [--directory DIR]
// spin: tasks take CPU time, so that all ranks together get no more of it than there are cores. sleep: they only last,
// as on a machine with a core for every rank. Prints CPU time of coordinator and journal a task and as a share of the
// tasks' time, and the share that ranks wait between two tasks.
#include <time.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <string>
#include <thread>

#include "core/json.h"
#include "sched/scheduler.h"
#include "store/journal.h"

namespace {

using voronoi::core::Json;

double clock_seconds(clockid_t clock) {
  timespec time{};
  ::clock_gettime(clock, &time);
  return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

struct Options {
  int n_tasks = 10000;
  double seconds = 1e-3;
  bool spin = true;
  std::string directory;
};

Options parse(int argc, char** argv) {
  Options options;
  for (int i = 1; i + 1 < argc; i += 2) {
    const std::string name = argv[i], value = argv[i + 1];
    if (name == "--tasks") options.n_tasks = std::atoi(value.c_str());
    if (name == "--milliseconds") options.seconds = 1e-3 * std::atof(value.c_str());
    if (name == "--work") options.spin = value == "spin";
    if (name == "--directory") options.directory = value;
  }
  return options;
}

Json layer_record(const std::string& name) {
  return {
      {"type", "layer"},
      {"name", name},
      {"sha256", std::string(64, 'a')},
      {"weights", 2048},
      {"stored_bits", 7168},
      {"nominal_bits", 1.0},
      {"relative_error", 0.08712345678901234},
      {"seconds", 0.0123456},
      {"calibration_tokens", 64},
      {"pooled_tokens", 8192},
      {"rank", 0},
      {"start", 1},
      {"statistics", {{"objective.main", 0.123456789012345}, {"objective.total", 0.23456789012345}, {"rounds", 4.0}}}};
}

}  // namespace

int main(int argc, char** argv) {
  using namespace voronoi;
  const comm::Environment environment(&argc, &argv);
  const comm::Communicator world = comm::Communicator::world();
  const Options options = parse(argc, argv);
  std::vector<sched::Task> tasks;
  for (int i = 0; i < options.n_tasks; ++i)
    tasks.push_back({i, "block " + std::to_string(i / 250) + " expert." + std::to_string(i % 250),
                     i % 2 ? "gate_up" : "down", options.seconds * (1 + 1e-6 * i)});
  std::unique_ptr<store::Journal> journal;
  const std::filesystem::path file = std::filesystem::path(options.directory) / "journal.log";
  if (world.rank() == 0 && !options.directory.empty())
    journal = std::make_unique<store::Journal>(file, file.string() + ".tmp");

  std::int64_t n_commits = 0;
  sched::CoordinatorEvents events;
  events.task_done = [&](const sched::Task& task, const sched::Outcome& outcome, int rank) {
    if (journal == nullptr) return;
    for (const Json& layer : core::parse_json(outcome.report, "report")) journal->add(layer);
    journal->add({{"type", "task_done"}, {"task", task.name}, {"rank", rank}, {"seconds", outcome.seconds}});
  };
  events.commit = [&] {
    ++n_commits;
    if (journal != nullptr) journal->commit();
  };
  const auto callback = [&](const sched::Task& task, core::Team&) {
    if (options.spin) {
      const double end = clock_seconds(CLOCK_THREAD_CPUTIME_ID) + options.seconds;
      while (clock_seconds(CLOCK_THREAD_CPUTIME_ID) < end) {
      }
    } else {
      std::this_thread::sleep_for(std::chrono::duration<double>(options.seconds));
    }
    return Json::array({layer_record(task.name + ".gate_proj"), layer_record(task.name + ".up_proj")}).dump();
  };
  sched::CostModel cost_model;
  const double start = clock_seconds(CLOCK_MONOTONIC), cpu_start = clock_seconds(CLOCK_PROCESS_CPUTIME_ID);
  const sched::PhaseResult result = sched::run_phase(world, tasks, callback, events, cost_model, {}, nullptr);
  const double elapsed = clock_seconds(CLOCK_MONOTONIC) - start;
  double cpu = 0;
  for (const std::int64_t microseconds :
       world.all_gather_value(static_cast<std::int64_t>(1e6 * (clock_seconds(CLOCK_PROCESS_CPUTIME_ID) - cpu_start))))
    cpu += 1e-6 * static_cast<double>(microseconds);
  if (world.rank() != 0) return 0;
  const sched::PhaseCost& cost = result.cost;
  const double useful = options.seconds * options.n_tasks;
  std::printf(
      "%d ranks, %lld tasks of %.3g ms (%s), %s: %.2f s; coordinator %.1f us of CPU a task = %.2f %% of task time; "
      "ranks wait "
      "%.1f us a task = %.2f %%; %.2f commits a task; CPU of all ranks beyond the tasks %.1f us a task\n",
      world.size(), static_cast<long long>(cost.n_tasks), 1e3 * options.seconds, options.spin ? "spin" : "sleep",
      journal != nullptr ? "journal" : "no journal", elapsed, 1e6 * cost.coordinator_seconds / options.n_tasks,
      100 * cost.coordinator_seconds / useful, 1e6 * cost.waiting_seconds / options.n_tasks,
      100 * cost.waiting_seconds / cost.task_seconds, static_cast<double>(n_commits) / options.n_tasks,
      1e6 * (options.spin ? cpu - useful : cpu) / options.n_tasks);
  return 0;
}
