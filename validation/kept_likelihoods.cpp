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
  core::Json list = core::Json::array();
  for (const auto& row : rows_.rows()) list.push_back(row ? core::Json(*row) : core::Json(nullptr));
  LikelihoodProgress progress;
  for (const core::Json& row : core::parse_json(communicator.broadcast(list.dump(), 0), "kept likelihoods"))
    progress.done.push_back(row.is_null()
                                ? std::nullopt
                                : std::optional(Likelihood{row.at(0).get<double>(), row.at(1).get<double>() != 0}));
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
