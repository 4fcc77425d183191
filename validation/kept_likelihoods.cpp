#include "validation/kept_likelihoods.h"

#include <chrono>
#include <utility>

#include "core/json.h"

namespace voronoi::validation {

KeptLikelihoods::KeptLikelihoods(std::vector<std::filesystem::path> directories, const std::string& key,
                                 std::int64_t n_requests)
    : windows_(std::move(directories), key, 2 * n_requests) {}

LikelihoodProgress KeptLikelihoods::progress(const comm::Communicator& communicator) {
  core::Json list = core::Json::array();
  for (const auto& sum : windows_.sums()) list.push_back(sum ? core::Json(*sum) : core::Json(nullptr));
  list = core::parse_json(communicator.broadcast(list.dump(), 0), "kept likelihoods");
  LikelihoodProgress progress;
  for (std::size_t i = 0; i + 1 < list.size(); i += 2) {
    if (list[i].is_null() || list[i + 1].is_null())
      progress.done.emplace_back();
    else
      progress.done.emplace_back(Likelihood{list[i].get<double>(), list[i + 1].get<double>() != 0});
  }
  const auto start = std::chrono::steady_clock::now();
  progress.keep = [this, start, before = windows_.seconds()](const Likelihoods& done) {
    WindowSums sums;
    for (const auto& one : done) {
      sums.push_back(one ? std::optional(one->log_likelihood) : std::nullopt);
      sums.push_back(one ? std::optional(one->is_greedy ? 1.0 : 0.0) : std::nullopt);
    }
    windows_.keep(sums, before + std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  };
  return progress;
}

}  // namespace voronoi::validation
