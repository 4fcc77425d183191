// The stage that writes RUN/report.
#include "comm/agreement.h"
#include "core/log.h"
#include "stages/stage.h"
#include "validation/run_report.h"

namespace voronoi::stages {

StageRun begin_report(Work& work) {
  return [&work](const Window&) {
    const std::int64_t peak = work.peak_memory();  // which the report tells
    comm::on_root(work.world, [&] {
      work.run.append(run::PeakMemory{peak});
      work.run.start->require_current();
      core::log_info("report: {}", validation::write_run_report(validation::make_run_report({work.run.paths}),
                                                                work.run.paths.report())
                                       .string());
    });
  };
}

}  // namespace voronoi::stages
