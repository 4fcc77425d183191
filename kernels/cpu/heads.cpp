// Norms that subtract the mean, and copies of parts of rows.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "kernels/cpu/rows.h"
#include "kernels/cpu/scratch.h"

namespace voronoi::kernels {
namespace {

/// Of a row, summed in fp64: 1 / sqrt(variance + eps) beside its mean.
struct RowMoments {
  float mean, scale;
};

RowMoments row_moments(std::int64_t dim, const float* x, float eps) {
  double sum = 0, squares = 0;
  for (std::int64_t i = 0; i < dim; ++i) sum += static_cast<double>(x[i]);
  const double mean = sum / static_cast<double>(dim);
  for (std::int64_t i = 0; i < dim; ++i) {
    const double centred = static_cast<double>(x[i]) - mean;
    squares += centred * centred;
  }
  return {static_cast<float>(mean),
          static_cast<float>(1.0 / std::sqrt(squares / static_cast<double>(dim) + static_cast<double>(eps)))};
}

/// With y the normed row and g = weight d_out: dx = scale (g - mean(g) - y mean(g y)).
void layer_norm_gradient_row(std::int64_t dim, const float* x, const float* weight, float eps, const float* d_out,
                             bool accumulate, float* dx, float* d_weight) {
  const RowMoments moments = row_moments(dim, x, eps);
  double sum = 0, along = 0;
  for (std::int64_t i = 0; i < dim; ++i) {
    const float slope = weight[i] * d_out[i], normed = (x[i] - moments.mean) * moments.scale;
    sum += static_cast<double>(slope);
    along += static_cast<double>(slope) * static_cast<double>(normed);
    if (d_weight != nullptr) d_weight[i] += d_out[i] * normed;
  }
  const auto mean = static_cast<float>(sum / static_cast<double>(dim)),
             bent = static_cast<float>(along / static_cast<double>(dim));
  for (std::int64_t i = 0; i < dim; ++i) {
    const float normed = (x[i] - moments.mean) * moments.scale;
    const float slope = moments.scale * (weight[i] * d_out[i] - mean - normed * bent);
    dx[i] = accumulate ? dx[i] + slope : slope;
  }
}

}  // namespace

void cpu_layer_norm(const Exec& exec, std::int64_t n_rows, std::int64_t dim, const float* x, std::int64_t ldx,
                    const float* weight, float eps, float* out, std::int64_t ld_out) {
  for_row_chunks(exec, n_rows, dim, [&](std::int64_t first, std::int64_t rows) {
    for (std::int64_t r = first; r < first + rows; ++r) {
      const float* from = x + r * ldx;
      const RowMoments moments = row_moments(dim, from, eps);
      for (std::int64_t i = 0; i < dim; ++i)
        out[r * ld_out + i] = weight[i] * ((from[i] - moments.mean) * moments.scale);
    }
  });
}

void cpu_layer_norm_gradient(const Exec& exec, std::int64_t n_rows, std::int64_t dim, const float* x, std::int64_t ldx,
                             const float* weight, float eps, const float* d_out, std::int64_t ld_out, bool accumulate,
                             float* dx, std::int64_t ld_dx, float* d_weight) {
  // Sums over rows run over parts of fixed size, which are added in their order.
  constexpr std::int64_t kPartRows = 64;
  const std::int64_t n_parts = core::ceil_div(n_rows, kPartRows);
  Scratch<float> parts(d_weight == nullptr ? 0 : n_parts * dim);
  exec.pool->parallel_for(n_parts, [&](std::int64_t part) {
    float* sum = d_weight == nullptr ? nullptr : parts.data() + part * dim;
    if (sum != nullptr) std::fill_n(sum, dim, 0.0F);
    for (std::int64_t r = part * kPartRows; r < std::min(n_rows, (part + 1) * kPartRows); ++r)
      layer_norm_gradient_row(dim, x + r * ldx, weight, eps, d_out + r * ld_out, accumulate, dx + r * ld_dx, sum);
  });
  if (d_weight == nullptr) return;
  for (std::int64_t part = 0; part < n_parts; ++part)
    for (std::int64_t i = 0; i < dim; ++i) d_weight[i] += parts.data()[part * dim + i];
}

void cpu_copy_heads(const Exec& exec, const HeadParts& parts, const float* x, float* out) {
  for_row_chunks(exec, parts.n_rows, parts.n_heads * parts.width, [&](std::int64_t first, std::int64_t rows) {
    for (std::int64_t r = first; r < first + rows; ++r)
      for (std::int64_t h = 0; h < parts.n_heads; ++h)
        std::copy_n(x + r * parts.ldx + h * parts.step_x, parts.width, out + r * parts.ld_out + h * parts.step_out);
  });
}

void cpu_sum_heads(const Exec& exec, const HeadParts& parts, const float* x, float* out) {
  for_row_chunks(exec, parts.n_rows, parts.n_heads * parts.width, [&](std::int64_t first, std::int64_t rows) {
    for (std::int64_t r = first; r < first + rows; ++r) {
      float* sum = out + r * parts.ld_out;
      std::copy_n(x + r * parts.ldx, parts.width, sum);
      for (std::int64_t h = 1; h < parts.n_heads; ++h)
        for (std::int64_t i = 0; i < parts.width; ++i) sum[i] += x[r * parts.ldx + h * parts.step_x + i];
    }
  });
}

}  // namespace voronoi::kernels
