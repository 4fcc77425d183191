#include "calib/paired_inputs.h"

#include <algorithm>
#include <memory>
#include <utility>

#include "calib/site_sum.h"
#include "core/error.h"

namespace voronoi::calib {

bool is_paired(const model::SiteSpec& site) { return site.expert < 0; }

PairedInputs::PairedInputs(backend::Context& context, const std::vector<model::SiteSpec>& sites, std::size_t first,
                           std::size_t last, core::DType dtype)
    : context_(context), dtype_(dtype) {
  for (std::size_t site = first; site < last; ++site)
    if (is_paired(sites[site])) kept_[site].n = sites[site].in_features;
}

void PairedInputs::start() {
  for (auto& [site, kept] : kept_) kept.sound.clear();
  rewind();
}

void PairedInputs::rewind() {
  for (auto& [site, kept] : kept_) kept.n_taken = 0;
}

void PairedInputs::record(std::size_t site, const float* x, std::int64_t n_rows) {
  const auto found = kept_.find(site);
  if (found == kept_.end()) return;
  Kept& kept = found->second;
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

PairedRows PairedInputs::next(std::size_t site, std::int64_t n_rows) {
  Kept& kept = kept_.at(site);
  VORONOI_REQUIRE(kept.n_taken + n_rows <= std::ssize(kept.sound), "both streams have the same tokens");
  const auto first = kept.sound.begin() + kept.n_taken;
  PairedRows rows{kept.values.data() + kept.n_taken * kept.n, {first, first + n_rows}};
  kept.n_taken += n_rows;
  return rows;
}

}  // namespace voronoi::calib
