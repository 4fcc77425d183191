#include "validation/kept_likelihoods.h"

#include <chrono>
#include <optional>
#include <utility>

#include "core/json.h"

namespace voronoi::validation {

KeptLikelihoods::KeptLikelihoods(std::vector<std::filesystem::path> directories, const std::string& key,
                                 std::int64_t n_requests)
    : rows_(std::move(directories), key, n_requests, 2) {}

LikelihoodProgress KeptLikelihoods::progress(const comm::Communicator& communicator) {
  LikelihoodProgress progress;
  for (const auto& row : rows_.shared(communicator))
    progress.done.push_back(row ? std::optional(Likelihood{row->at(0), row->at(1) != 0}) : std::nullopt);
  const auto start = std::chrono::steady_clock::now();
  progress.keep = [this, start, before = rows_.seconds()](const Likelihoods& done) {
    WindowRows rows;
    for (const auto& one : done)
      rows.push_back(one ? std::optional(std::vector<double>{one->log_likelihood, one->is_greedy ? 1.0 : 0.0})
                         : std::nullopt);
    rows_.keep(rows, before + std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  };
  return progress;
}

}  // namespace voronoi::validation
