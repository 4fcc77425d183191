#include "calib/site_sum.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <numeric>

#include "core/error.h"

namespace voronoi::calib {
namespace {

constexpr std::int64_t kRowsAtOnce = 1 << 15;  // that are looked at: within the extents of a GPU's grid
constexpr float kLargestInput = 1e12F;
// A sum below this holds no square of kLargestInput, whatever the rounding of its terms.
constexpr double kSoundSum = 0.9e24;

/// Diagonal of a full [n, n] matrix, on the host.
std::vector<double> diagonal_of(backend::Context& context, std::int64_t n, const backend::Array<double>& matrix) {
  std::vector<double> diagonal(static_cast<std::size_t>(n));
  if (context.on_host()) {
    for (std::int64_t i = 0; i < n; ++i)
      diagonal[static_cast<std::size_t>(i)] = matrix.span()[static_cast<std::size_t>(i * (n + 1))];
    return diagonal;
  }
  // A double is gathered as a row of two floats; numbers of rows have 32 bits, so a strip of the matrix at a time.
  const std::int64_t strip = std::min(n, std::numeric_limits<std::int32_t>::max() / (n + 1));
  backend::Array<double> gathered(context, n);
  std::vector<std::int32_t> ids(static_cast<std::size_t>(strip));
  for (std::int64_t i = 0; i < strip; ++i) ids[static_cast<std::size_t>(i)] = static_cast<std::int32_t>(i * (n + 1));
  const backend::Array<std::int32_t> rows(context, std::span<const std::int32_t>(ids));
  for (std::int64_t first = 0; first < n; first += strip)
    context.nn().embed(context.exec(), rows.data(), std::min(strip, n - first), 2,
                       reinterpret_cast<const float*>(matrix.data() + first * (n + 1)),
                       reinterpret_cast<float*>(gathered.data() + first));
  return gathered.to_host();
}

/// The rows `ids` of x [*, n], on the device.
backend::Array<float> gather_rows(backend::Context& context, const float* x, std::int64_t n,
                                  const std::vector<std::int32_t>& ids) {
  const backend::DeviceView<std::int32_t> rows(context, ids);
  backend::Array<float> gathered(context, static_cast<std::int64_t>(ids.size()) * n);
  if (!ids.empty())
    context.nn().embed(context.exec(), rows.data(), static_cast<std::int64_t>(ids.size()), n, x, gathered.data());
  return gathered;
}

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
  const std::vector<double> diagonal = diagonal_of(context_, n_, chunk_);
  return std::all_of(diagonal.begin(), diagonal.end(), [](double sum) { return sum <= kSoundSum; });
}

void SiteSum::add_sound_rows(const float* x, std::int64_t n_rows) {
  const auto count = static_cast<std::size_t>(n_rows);
  std::vector<std::int64_t> row_begin(count + 1);
  std::iota(row_begin.begin(), row_begin.end(), 0);
  const std::vector<float> ones(count, 1.0F);
  const backend::DeviceView<float> weights(context_, ones);
  const auto sound = std::make_unique<bool[]>(count);
  const float largest = largest_input(dtype_);
  for (std::int64_t first = 0; first < n_rows; first += kRowsAtOnce)
    context_.vq().check_points(context_.exec(), std::min(kRowsAtOnce, n_rows - first), row_begin.data(), n_,
                               x + first * n_, weights.data(), largest, sound.get() + first);
  std::vector<std::int32_t> ids;
  for (std::size_t row = 0; row < count; ++row) {
    if (sound[row]) {
      ids.push_back(static_cast<std::int32_t>(row));
    } else if (!first_bad_) {
      const std::vector<float> values = gather_rows(context_, x, n_, {static_cast<std::int32_t>(row)}).to_host();
      const auto bad =
          std::find_if(values.begin(), values.end(), [largest](float value) { return !(std::fabs(value) <= largest); });
      VORONOI_REQUIRE(bad != values.end(), "a row that is too large has a value that is");
      first_bad_ = {n_tokens_ + n_left_out_ + static_cast<std::int64_t>(row), bad - values.begin(), *bad};
    }
  }
  n_left_out_ += n_rows - static_cast<std::int64_t>(ids.size());
  if (ids.size() == count) return add(x, n_rows);
  if (!ids.empty()) add(gather_rows(context_, x, n_, ids).data(), static_cast<std::int64_t>(ids.size()));
}

void SiteSum::finish(std::int64_t chunk) { tree_.add_chunk(chunk, chunk_, n_tokens_, n_left_out_); }

}  // namespace voronoi::calib
