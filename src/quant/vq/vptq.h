// VPTQ (Liu et al. 2024, arXiv 2409.17066): weighted k-means, the column loop, a residual codebook trained on what the
// loop leaves and a second loop with both; in the metric of the operator's own units throughout.
#pragma once

#include <cstdint>
#include <map>
#include <string>

#include "format/vptq.h"
#include "quant/quantizer.h"
#include "quant/vq/problem.h"
#include "quant/vq/state.h"

namespace voronoi::quant {

/// The method: passes with one main candidate. Collective.
QuantResult run_vptq(backend::Context& context, core::Team& team, const QuantInput& input,
                     const QuantParameters& parameters);

/// Codebooks and codes by VPTQ: pass 1 and, with a residual codebook, pass 2 with `candidates` main candidates (1:
/// greedy). The state brings its columns. Figures go to `statistics`, but for the error after the last pass: the caller
/// finds it anyway and files it under the name that is returned. Collective.
std::string vptq_passes(const VqProblem& problem, std::int64_t candidates, VqState& state,
                        std::map<std::string, double>& statistics);

/// The codes of the whole team packed for storage, relative_error from the error given, and the problem's own figures
/// beside `statistics`. Collective.
QuantResult pack_result(const VqProblem& problem, VqState state, double error,
                        std::map<std::string, double> statistics);

/// Scale and bias of every column as stored, processing order: its standard deviation and its mean.
ColumnScale column_scales(backend::Context& context, const QuantInput& input);

}  // namespace voronoi::quant
