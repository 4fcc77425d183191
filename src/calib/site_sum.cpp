#include "calib/site_sum.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <utility>

#include "calib/footprint.h"
#include "core/error.h"
#include "core/work_counts.h"

namespace voronoi::calib {
namespace {

constexpr float kLargestInput = 1e12F;
// A sum below this holds no square of kLargestInput, whatever the rounding of its terms.
constexpr double kSoundSum = 0.9e24;

}  // namespace

float largest_input(core::DType dtype) {
  return dtype == core::DType::f16 ? std::nextafter(65520.0F, 0.0F) : kLargestInput;
}

SiteSum::SiteSum(backend::Context& context, std::int64_t n, core::DType dtype, bool paired)
    : context_(context),
      n_(n),
      dtype_(dtype),
      tree_(context, n),
      held_out_(context, n),
      cross_(context, n),
      held_out_cross_(context, n),
      paired_(paired) {}

void SiteSum::reserve(std::int64_t n_summed, std::int64_t n_held_out) {
  tree_.reserve(n_summed);
  held_out_.reserve(n_held_out);
  if (!paired_) return;
  cross_.reserve(n_summed);
  held_out_cross_.reserve(n_held_out);
}

void SiteSum::start(bool is_held_out, const std::span<const float>* weights) {
  is_held_out_ = is_held_out;
  weights_.reset();
  if (weights != nullptr) weights_ = *weights;
  counted_ = {};
  // From where it goes, so that what is merged away there is used again.
  if (chunk_.empty()) chunk_ = (is_held_out ? held_out_ : tree_).room();
  chunk_.zero();
  if (paired_ && cross_chunk_.empty()) cross_chunk_ = (is_held_out ? held_out_cross_ : cross_).room();
  cross_chunk_.zero();
  n_tokens_ = n_left_out_ = 0;
  first_bad_.reset();
  has_bad_pair_ = false;
}

void SiteSum::add(const float* x, std::int64_t n_rows, const PairedRows* pairs) {
  std::span<const float> weights;
  if (weights_) {
    const auto first = static_cast<std::size_t>(n_tokens_ + n_left_out_);
    VORONOI_REQUIRE(first + static_cast<std::size_t>(n_rows) <= weights_->size(), "a weight for every row is wanted");
    weights = weights_->subspan(first, static_cast<std::size_t>(n_rows));
  }
  if (pairs != nullptr)
    has_bad_pair_ |= std::find(pairs->sound.begin(), pairs->sound.end(), false) != pairs->sound.end();
  add_rows(x, n_rows, weights, pairs);
  n_tokens_ += n_rows;
}

backend::Array<float> SiteSum::scaled(const float* x, std::span<const float> factors) const {
  const auto n_rows = static_cast<std::int64_t>(factors.size());
  const backend::DeviceView<float> on_device(context_, factors);
  backend::Array<float> rows(context_, n_rows * n_);
  rows.zero();
  context_.nn().add_weighted_rows(context_.exec(), n_rows, n_, x, nullptr, on_device.data(), rows.data());
  return rows;
}

void SiteSum::add_rows(const float* x, std::int64_t n_rows, std::span<const float> weights, const PairedRows* pairs) {
  std::vector<float> roots;
  for (const float weight : weights) {
    roots.push_back(std::sqrt(weight));
    counted_.add(weight);
  }
  const backend::Array<float> weighted = weights_ ? scaled(x, roots) : backend::Array<float>();
  if (weights_) x = weighted.data();
  core::count_work(core::Counted::gram_flops, triangle_flops(n_, n_rows));
  context_.linalg().gram_accumulate(context_.exec(), n_rows, n_, x, n_, dtype_, chunk_.data());
  if (pairs != nullptr) add_cross(x, n_rows, roots, *pairs);
}

void SiteSum::add_cross(const float* x, std::int64_t n_rows, std::span<const float> roots, const PairedRows& pairs) {
  std::vector<std::int32_t> here, there;  // rows that have counterparts, and these
  std::vector<float> factors;
  for (std::size_t i = 0; i < static_cast<std::size_t>(n_rows); ++i) {
    if (pairs.row[i] < 0) continue;
    here.push_back(static_cast<std::int32_t>(i));
    there.push_back(pairs.row[i]);
    if (!roots.empty()) factors.push_back(roots[i]);
  }
  const auto n_paired = static_cast<std::int64_t>(here.size());
  if (n_paired == 0) return;
  const backend::Array<float> paired =
      n_paired < n_rows ? backend::gather_rows(context_, x, n_, here) : backend::Array<float>();
  if (n_paired < n_rows) x = paired.data();
  n_rows = n_paired;
  backend::Array<float> y = backend::gather_rows(context_, pairs.x, n_, there);
  if (!roots.empty()) y = scaled(y.data(), factors);
  const std::vector<float> minus(here.size(), -1.0F);
  const backend::DeviceView<float> minus_one(context_, minus);
  context_.nn().add_weighted_rows(context_.exec(), n_rows, n_, x, nullptr, minus_one.data(), y.data());
  const std::int64_t most = std::min(kCrossRows, n_rows) * n_;
  backend::Array<double> difference(context_, most), input(context_, most);
  for (std::int64_t first = 0; first < n_rows; first += kCrossRows) {
    const std::int64_t rows = std::min(kCrossRows, n_rows - first);
    context_.linalg().widen_f64(context_.exec(), rows * n_, y.data() + first * n_, difference.data());
    context_.linalg().widen_f64(context_.exec(), rows * n_, x + first * n_, input.data());
    core::count_work(core::Counted::gram_flops, cross_flops(n_, rows));
    context_.linalg().gemm_f64(context_.exec(), true, false, n_, n_, rows, 1.0, difference.data(), n_, input.data(), n_,
                               1.0, cross_chunk_.data(), n_);
  }
}

bool SiteSum::sound() const {
  if (has_bad_pair_) return false;
  // In F16 a row that is too large has made an infinity or a NaN of its square; so has a NaN in any type.
  backend::Array<double> diagonal(context_, n_);
  context_.linalg().packed_diagonal_f64(context_.exec(), n_, chunk_.data(), diagonal.data());
  const std::vector<double> sums = diagonal.to_host();
  return std::all_of(sums.begin(), sums.end(), [](double sum) { return sum <= kSoundSum; });
}

void SiteSum::add_sound_rows(const float* x, std::int64_t n_rows, const PairedRows* pairs) {
  const auto count = static_cast<std::size_t>(n_rows);
  const auto sound = std::make_unique<bool[]>(count);
  const float largest = largest_input(dtype_);
  context_.linalg().bounded_rows(context_.exec(), n_rows, n_, x, largest, sound.get());
  std::vector<std::int32_t> ids;
  for (std::size_t row = 0; row < count; ++row) {
    const bool pair_is_sound = pairs == nullptr || pairs->sound[row];
    if (sound[row] && pair_is_sound) {
      ids.push_back(static_cast<std::int32_t>(row));
    } else if (!first_bad_) {
      const float* at =
          sound[row] ? pairs->x + std::int64_t{pairs->row[row]} * n_ : x + static_cast<std::int64_t>(row) * n_;
      const backend::HostView<float> bad_row(context_, at, n_);
      const std::span<const float> values = bad_row.values();
      const auto bad =
          std::find_if(values.begin(), values.end(), [largest](float value) { return !(std::fabs(value) <= largest); });
      VORONOI_REQUIRE(bad != values.end(), "a row that is too large has a value that is");
      first_bad_ = {n_tokens_ + n_left_out_ + static_cast<std::int64_t>(row), bad - values.begin(), *bad, sound[row]};
    }
  }
  const auto n_sound = static_cast<std::int64_t>(ids.size());
  if (n_sound == n_rows) return add(x, n_rows, pairs);
  if (n_sound > 0) {
    std::vector<float> weights;
    if (weights_)
      for (const std::int32_t id : ids)
        weights.push_back((*weights_)[static_cast<std::size_t>(n_tokens_ + n_left_out_ + id)]);
    const backend::Array<float> rows = backend::gather_rows(context_, x, n_, ids);
    PairedRows of_them;
    if (pairs != nullptr) {
      of_them.x = pairs->x;
      for (const std::int32_t id : ids) of_them.row.push_back(pairs->row[static_cast<std::size_t>(id)]);
    }
    add_rows(rows.data(), n_sound, weights, pairs != nullptr ? &of_them : nullptr);
  }
  n_tokens_ += n_sound;
  n_left_out_ += n_rows - n_sound;
}

void SiteSum::release_trees() {
  for (HessianTree* tree : {&tree_, &held_out_}) *tree = HessianTree(context_, n_);
  for (CrossTree* tree : {&cross_, &held_out_cross_}) *tree = CrossTree(context_, n_);
}

void SiteSum::finish(std::int64_t chunk) {
  (is_held_out_ ? held_out_ : tree_).add_chunk(chunk, std::move(chunk_), n_tokens_, n_left_out_, counted_);
  (is_held_out_ ? tree_ : held_out_).skip(chunk);
  if (!paired_) return;
  (is_held_out_ ? held_out_cross_ : cross_).add(chunk, std::move(cross_chunk_));
  (is_held_out_ ? cross_ : held_out_cross_).skip(chunk);
}

}  // namespace voronoi::calib
