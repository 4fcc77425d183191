// Not a test by itself: rank 1 dies of SIGKILL in the middle of a phase. killed_rank.sh checks that the job ends.
#include <csignal>
#include <cstdio>

#include "comm/mpi.h"
#include "sched/scheduler.h"

int main(int argc, char** argv) {
  using namespace voronoi;
  const comm::Environment environment(&argc, &argv);
  const auto world = comm::Communicator::world();
  std::vector<sched::Task> tasks;
  for (int i = 0; i < 100; ++i) tasks.push_back({i, "task", "kind", 1, 1 + i % 2});
  sched::CostModel cost_model;
  int n_runs = 0;
  sched::run_phase(
      world, tasks,
      [&](const sched::Task&, core::Team&) -> std::string {
        if (world.rank() == 1 && ++n_runs == 3) std::raise(SIGKILL);
        return {};
      },
      {}, cost_model, {}, nullptr);
  std::puts("the phase ended as if nothing had happened");
  return 0;
}
