#include "calib/paired_inputs.h"

#include <algorithm>
#include <memory>
#include <numeric>
#include <utility>

#include "calib/site_sum.h"
#include "core/error.h"

namespace voronoi::calib {

PairedInputs::PairedInputs(backend::Context& context, const std::vector<model::SiteSpec>& sites, std::size_t first,
                           std::size_t last, core::DType dtype, bool weighed)
    : context_(context), sites_(sites), dtype_(dtype), weighed_(weighed) {
  for (std::size_t site = first; site < last; ++site) kept_[keeper(site)].n = sites[site].in_features;
}

std::size_t PairedInputs::keeper(std::size_t site) const {
  // Pairs of gate_up and down, those of the experts before all others.
  if (weighed_) return site;
  std::size_t first = 0;
  while (first < site && sites_[first].expert < 0) ++first;
  return sites_[site].expert >= 0 && (site - first) % 2 == 0 ? first : site;
}

void PairedInputs::start() {
  for (auto& [site, kept] : kept_) {
    kept.sound.clear();
    kept.row_of_token.clear();
  }
  rewind();
}

void PairedInputs::rewind() {
  for (auto& [site, kept] : kept_) kept.n_taken = 0;
}

void PairedInputs::append(Kept& kept, const float* x, std::int64_t n_rows) const {
  const auto bytes = [](std::int64_t values) { return values * std::int64_t{sizeof(float)}; };
  const std::int64_t held = std::ssize(kept.sound) * kept.n, wanted = held + n_rows * kept.n;
  if (kept.values.size() < wanted) {
    backend::Array<float> larger(context_, std::max(wanted, 2 * held));
    if (held > 0) context_.memory().copy_on_device(context_.exec(), kept.values.data(), bytes(held), larger.data());
    kept.values = std::move(larger);
  }
  context_.memory().copy_on_device(context_.exec(), x, bytes(n_rows * kept.n), kept.values.data() + held);
  const auto sound = std::make_unique<bool[]>(static_cast<std::size_t>(n_rows));
  context_.linalg().bounded_rows(context_.exec(), n_rows, kept.n, x, largest_input(dtype_), sound.get());
  kept.sound.insert(kept.sound.end(), sound.get(), sound.get() + n_rows);
}

void PairedInputs::record(std::size_t site, const float* x, std::int64_t n_rows, std::span<const std::int32_t> places) {
  const auto found = kept_.find(keeper(site));
  if (found == kept_.end()) return;
  Kept& kept = found->second;
  if (places.empty()) return append(kept, x, n_rows);
  std::vector<std::int32_t> fresh;  // what enters several experts does so alike
  for (std::int32_t i = 0; i < static_cast<std::int32_t>(n_rows); ++i)
    if (kept.row_of_token
            .emplace(places[static_cast<std::size_t>(i)], static_cast<std::int32_t>(kept.sound.size() + fresh.size()))
            .second)
      fresh.push_back(i);
  if (!fresh.empty()) append(kept, backend::gather_rows(context_, x, kept.n, fresh).data(), std::ssize(fresh));
}

PairedRows PairedInputs::next(std::size_t site, std::int64_t n_rows, std::span<const std::int32_t> places) {
  Kept& kept = kept_.at(keeper(site));
  PairedRows rows;
  rows.x = kept.values.data();
  if (places.empty()) {
    VORONOI_REQUIRE(kept.n_taken + n_rows <= std::ssize(kept.sound), "both streams have the same tokens");
    rows.row.resize(static_cast<std::size_t>(n_rows));
    std::iota(rows.row.begin(), rows.row.end(), static_cast<std::int32_t>(kept.n_taken));
    kept.n_taken += n_rows;
  }
  for (const std::int32_t token : places) {
    const auto known = kept.row_of_token.find(token);
    rows.row.push_back(known == kept.row_of_token.end() ? -1 : known->second);
  }
  for (const std::int32_t row : rows.row) rows.sound.push_back(row < 0 || kept.sound[static_cast<std::size_t>(row)]);
  return rows;
}

}  // namespace voronoi::calib
