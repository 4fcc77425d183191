// The main job: calibrate and quantize, window by window, over all ranks.
#pragma once

#include "backend/device.h"
#include "comm/mpi.h"
#include "run/run.h"
#include "run/settings.h"
#include "stages/inputs.h"

namespace voronoi::stages {

struct PipelineResult {
  bool stopped = false;  ///< on request, resumable
};

/// Collective. What was given up stands in the run's state and journal. independent calibration: for each window of
/// blocks, calibrate (collective), then quantize (tasks). sequential: block by block, the residual stream leaving each
/// block through its quantized weights.
PipelineResult run_pipeline(const comm::Communicator& world, backend::Context& context, const run::Settings& options,
                            const Inputs& inputs, run::Run& run);

}  // namespace voronoi::stages
