#include "validation/kept_likelihoods.h"

#include <algorithm>
#include <chrono>
#include <numeric>
#include <optional>
#include <utility>

#include "core/json.h"

namespace voronoi::validation {
namespace {

std::size_t count_answers(const WindowRows& rows) {
  return static_cast<std::size_t>(
      std::count_if(rows.begin(), rows.end(), [](const auto& row) { return row.has_value(); }));
}

}  // namespace

void KeptLikelihoods::add(std::vector<std::filesystem::path> directories, const std::string& key,
                          std::int64_t n_requests) {
  parts_.push_back({KeptWindows(std::move(directories), key, n_requests, 2), static_cast<std::size_t>(n_requests)});
}

LikelihoodProgress KeptLikelihoods::progress(const comm::Communicator& communicator) {
  LikelihoodProgress progress;
  for (Part& part : parts_) {
    const WindowRows rows = part.rows.shared(communicator);
    part.n_done = count_answers(rows);
    progress.parts.push_back(part.n_requests);
    for (const auto& row : rows)
      progress.done.push_back(row ? std::optional(Likelihood{row->at(0), row->at(1) != 0}) : std::nullopt);
  }
  std::size_t missing = 0;
  for (const Part& part : parts_) missing += part.n_requests - part.n_done;
  for (Part& part : parts_) {
    part.before = part.rows.seconds();
    part.share = missing > 0 ? static_cast<double>(part.n_requests - part.n_done) / static_cast<double>(missing) : 0;
  }
  const auto start = std::chrono::steady_clock::now();
  progress.keep = [this, start](const Likelihoods& done) {
    keep(done, std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  };
  return progress;
}

double KeptLikelihoods::seconds() const {
  return std::accumulate(parts_.begin(), parts_.end(), 0.0,
                         [](double sum, const Part& part) { return sum + part.rows.seconds(); });
}

void KeptLikelihoods::remove() const {
  for (const Part& part : parts_) part.rows.remove();
}

/// Parts that have more than before; `seconds` since the beginning are theirs by what each lacked then.
void KeptLikelihoods::keep(const Likelihoods& done, double seconds) {
  auto first = done.begin();
  for (Part& part : parts_) {
    WindowRows rows;
    for (const auto last = first + static_cast<std::ptrdiff_t>(part.n_requests); first != last; ++first)
      rows.push_back(*first
                         ? std::optional(std::vector<double>{(*first)->log_likelihood, (*first)->is_greedy ? 1.0 : 0.0})
                         : std::nullopt);
    const std::size_t n_done = count_answers(rows);
    if (n_done == part.n_done) continue;
    part.n_done = n_done;
    part.rows.keep(rows, part.before + seconds * part.share);
  }
}

}  // namespace voronoi::validation
