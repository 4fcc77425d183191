#include "quant/row_energies.h"

#include "core/error.h"
#include "core/index.h"
#include "core/work_counts.h"

namespace voronoi::quant {

using core::index;

RowEnergies::RowEnergies(backend::Context& context, std::int64_t most_rows, std::int64_t n,
                         const backend::Array<float>& h)
    : context_(context),
      n_(n),
      h_(h),
      tile_(context, most_rows * n),
      product_(context, most_rows * n),
      image_(index(most_rows * n)),
      sums_(index(most_rows)) {
  VORONOI_REQUIRE(h.size() == n * n, "the Hessian is [in_features, in_features]");
}

std::span<const double> RowEnergies::of(std::span<const float> vectors) {
  const std::int64_t rows = std::ssize(vectors) / n_;
  VORONOI_REQUIRE(rows <= std::ssize(sums_) && rows * n_ == std::ssize(vectors), "rows of a tile");
  const auto size_bytes = static_cast<std::int64_t>(vectors.size_bytes());
  context_.memory().copy_from_host(context_.exec(), vectors.data(), size_bytes, tile_.data());
  core::count_product(rows, n_, n_);
  context_.linalg().gemm_f32(context_.exec(), false, false, rows, n_, n_, 1.0F, tile_.data(), n_, h_.data(), n_, 0.0F,
                             product_.data(), n_);
  context_.memory().copy_to_host(context_.exec(), product_.data(), size_bytes, image_.data());
  context_.pool().parallel_for(rows, [&](std::int64_t row) {
    double sum = 0;
    for (std::int64_t i = row * n_; i < (row + 1) * n_; ++i)
      sum += static_cast<double>(vectors[index(i)]) * static_cast<double>(image_[index(i)]);
    sums_[index(row)] = sum;
  });
  return std::span(sums_).first(index(rows));
}

}  // namespace voronoi::quant
