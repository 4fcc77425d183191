// Memory that quantizing a site holds at its worst moment, from shapes and parameters alone: the arrays of a task
// (Hessian, weights, and what quantizer, k-means and refits keep beside each other), as the sources allocate them.
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "core/memory_peak.h"
#include "quant/parameters.h"

namespace voronoi::quant {

struct OperatorShape {
  std::string name;
  std::int64_t out_features = 0;
};

/// What calibration stored for a site; on the host until the last metric of its linears is made.
struct StoredMoments {
  std::int64_t bytes = 0;       ///< more than a triangle where there is a choice of metrics
  bool guided = false;          ///< each linear has a metric of its own
  bool held_out = false;        ///< half of it is of tokens that are kept out
  bool asymmetric = false;      ///< cross moments among it, so that codes are fitted to another target than the weight
  bool elsewhere = false;       ///< not in the memory of the computation
  std::int64_t row_groups = 1;  ///< of a linear, with a guided moment each
};

/// One rank's peak over a site's task, `team_size` ranks sharing the rows of its operators, on `n_threads` threads. All
/// of it is host memory with a CPU context; see host_staging for a device of its own memory. operators: those with this
/// Hessian, in_features columns each.
core::MemoryPeak site_memory(const QuantParameters& parameters, std::int64_t in_features,
                             std::span<const OperatorShape> operators, const StoredMoments& moments, int n_threads,
                             int team_size);

/// What a rank keeps on the host when the arrays of the computation are in a device's memory: moments and metrics while
/// the Hessian is prepared, the widest weight on its way there, codes and encoding on their way back.
std::int64_t host_staging(const QuantParameters& parameters, std::int64_t in_features,
                          std::span<const OperatorShape> operators, const StoredMoments& moments);

}  // namespace voronoi::quant
