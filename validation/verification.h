// Runs and checkpoints read again: every checksum, every layer decoded.
#pragma once

#include <string>
#include <vector>

#include "comm/mpi.h"
#include "core/json.h"

namespace voronoi::validation {

struct Verification {
  std::string kind;                   ///< "run directory", "VPTQ checkpoint"
  std::vector<std::string> notes;     ///< what was and was not compared
  std::vector<std::string> problems;  ///< one a damaged or differing thing
  /// A layer each: name, shape, bits_true, decoded_sha256 (of the decoded matrix [out, in], row-major little-endian
  /// F32).
  core::Json layers = core::Json::array();
  std::size_t n_layers = 0;
};

// Collective: each rank reads its share of the layers. Problems that rank 0 alone looks for are in its result alone.

/// Identity, journal, every shard against its journalled sum and its parent, the Hessians that are there, export,
/// report and evaluations against their own. Throws FormatError when identity or journal are damaged.
Verification verify_run(const comm::Communicator& world, const std::string& path);

/// Every file against the manifest, when there is one; every packed layer decoded and, when its run is at hand,
/// compared with what the run's shard decodes to, as are the tensors that the run had of its own. Throws FormatError
/// when the checkpoint cannot be opened.
Verification verify_checkpoint(const comm::Communicator& world, const std::string& path);

}  // namespace voronoi::validation
