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
    : context_(context), n_(n), dtype_(dtype), tree_(context, n), chunk_(context, n * n) {}

void SiteSum::start() {
  chunk_.zero();
  n_tokens_ = n_left_out_ = 0;
  first_bad_.reset();
}

void SiteSum::add(const float* x, std::int64_t n_rows) {
  context_.linalg().gram_accumulate(context_.exec(), n_rows, n_, x, n_, dtype_, chunk_.data());
  n_tokens_ += n_rows;
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
  n_left_out_ += n_rows - static_cast<std::int64_t>(ids.size());
  if (ids.size() == count) return add(x, n_rows);
  if (!ids.empty()) add(backend::gather_rows(context_, x, n_, ids).data(), static_cast<std::int64_t>(ids.size()));
}

void SiteSum::finish(std::int64_t chunk) { tree_.add_chunk(chunk, chunk_, n_tokens_, n_left_out_); }

}  // namespace voronoi::calib
