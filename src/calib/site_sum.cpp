#include "calib/site_sum.h"

#include <algorithm>
#include <cmath>
#include <memory>

#include "core/error.h"

namespace voronoi::calib {
namespace {

constexpr float kLargestInput = 1e12F;
// A sum below this holds no square of kLargestInput, whatever the rounding of its terms.
constexpr double kSoundSum = 0.9e24;

}  // namespace

float largest_input(core::DType dtype) {
  return dtype == core::DType::f16 ? std::nextafter(65520.0F, 0.0F) : kLargestInput;
}

SiteSum::SiteSum(backend::Context& context, std::int64_t n, core::DType dtype)
    : context_(context), n_(n), dtype_(dtype), tree_(context, n), held_out_(context, n), chunk_(context, n * n) {}

void SiteSum::start(const std::span<const float>* weights) {
  weights_.reset();
  if (weights != nullptr) weights_ = *weights;
  counted_ = {};
  chunk_.zero();
  n_tokens_ = n_left_out_ = 0;
  first_bad_.reset();
}

void SiteSum::add(const float* x, std::int64_t n_rows) {
  if (weights_) {
    const auto first = static_cast<std::size_t>(n_tokens_ + n_left_out_);
    VORONOI_REQUIRE(first + static_cast<std::size_t>(n_rows) <= weights_->size(), "a weight for every row is wanted");
    add_weighted(x, weights_->subspan(first, static_cast<std::size_t>(n_rows)));
    n_tokens_ += n_rows;
    return;
  }
  context_.linalg().gram_accumulate(context_.exec(), n_rows, n_, x, n_, dtype_, chunk_.data());
  n_tokens_ += n_rows;
}

void SiteSum::add_weighted(const float* x, std::span<const float> weights) {
  std::vector<float> roots;
  for (const float weight : weights) {
    roots.push_back(std::sqrt(weight));
    counted_.add(weight);
  }
  const auto n_rows = static_cast<std::int64_t>(weights.size());
  const backend::DeviceView<float> factors(context_, roots);
  backend::Array<float> scaled(context_, n_rows * n_);
  scaled.zero();
  context_.nn().add_weighted_rows(context_.exec(), n_rows, n_, x, nullptr, factors.data(), scaled.data());
  context_.linalg().gram_accumulate(context_.exec(), n_rows, n_, scaled.data(), n_, dtype_, chunk_.data());
}

bool SiteSum::sound() const {
  // In F16 a row that is too large has made an infinity or a NaN of its square; so has a NaN in any type.
  backend::Array<double> diagonal(context_, n_);
  context_.linalg().diagonal_f64(context_.exec(), n_, chunk_.data(), diagonal.data());
  const std::vector<double> sums = diagonal.to_host();
  return std::all_of(sums.begin(), sums.end(), [](double sum) { return sum <= kSoundSum; });
}

void SiteSum::add_sound_rows(const float* x, std::int64_t n_rows) {
  const auto count = static_cast<std::size_t>(n_rows);
  const auto sound = std::make_unique<bool[]>(count);
  const float largest = largest_input(dtype_);
  context_.linalg().bounded_rows(context_.exec(), n_rows, n_, x, largest, sound.get());
  std::vector<std::int32_t> ids;
  for (std::size_t row = 0; row < count; ++row) {
    if (sound[row]) {
      ids.push_back(static_cast<std::int32_t>(row));
    } else if (!first_bad_) {
      const backend::HostView<float> bad_row(context_, x + static_cast<std::int64_t>(row) * n_, n_);
      const std::span<const float> values = bad_row.values();
      const auto bad =
          std::find_if(values.begin(), values.end(), [largest](float value) { return !(std::fabs(value) <= largest); });
      VORONOI_REQUIRE(bad != values.end(), "a row that is too large has a value that is");
      first_bad_ = {n_tokens_ + n_left_out_ + static_cast<std::int64_t>(row), bad - values.begin(), *bad};
    }
  }
  const auto n_sound = static_cast<std::int64_t>(ids.size());
  if (n_sound == n_rows) return add(x, n_rows);
  const backend::Array<float> rows = n_sound > 0 ? backend::gather_rows(context_, x, n_, ids) : backend::Array<float>();
  if (weights_) {
    std::vector<float> weights;
    for (const std::int32_t id : ids)
      weights.push_back((*weights_)[static_cast<std::size_t>(n_tokens_ + n_left_out_ + id)]);
    if (n_sound > 0) add_weighted(rows.data(), weights);
  } else if (n_sound > 0) {
    context_.linalg().gram_accumulate(context_.exec(), n_sound, n_, rows.data(), n_, dtype_, chunk_.data());
  }
  n_tokens_ += n_sound;
  n_left_out_ += n_rows - n_sound;
}

void SiteSum::finish(const ChunkPlace& place) {
  (place.is_held_out ? held_out_ : tree_).add_chunk(place.index, chunk_, n_tokens_, n_left_out_, counted_);
}

}  // namespace voronoi::calib
