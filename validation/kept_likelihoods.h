// Likelihoods that were computed already, kept as the windows of a perplexity are.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "comm/mpi.h"
#include "validation/kept_windows.h"
#include "validation/likelihood.h"

namespace voronoi::validation {

/// In files of KeptWindows, one a part of the requests (a task): a request is a row, {log-likelihood, whether it is
/// greedy}. Of ranks but 0 the directories are empty.
class KeptLikelihoods {
 public:
  /// The part behind those before.
  void add(std::vector<std::filesystem::path> directories, const std::string& key, std::int64_t n_requests);

  /// For likelihoods(): what rank 0 has, on every rank, and the way to keep more, as long as this object lives.
  /// Collective.
  LikelihoodProgress progress(const comm::Communicator& communicator);
  /// Wall time that was spent on what was kept before.
  double seconds() const;
  void remove() const;

 private:
  struct Part {
    KeptWindows rows;
    std::size_t n_requests, n_done = 0;
    double before = 0;  ///< seconds spent on it by an earlier program
    double share = 0;   ///< of the time that is spent now
  };
  void keep(const Likelihoods& done, double seconds);

  std::vector<Part> parts_;
};

}  // namespace voronoi::validation
