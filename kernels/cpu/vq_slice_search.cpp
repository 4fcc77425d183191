// The choice of codes for one column of a part.
#include <algorithm>

#include "core/types.h"
#include "kernels/cpu/vq_slice.h"

namespace voronoi::kernels::slice {

ColumnSearch::ColumnSearch(const Exec& exec, const Part& part, const VqBooks& books, std::int64_t candidates,
                           bool searched_padding)
    : exec_(exec),
      vq_(cpu_vq_kernels()),
      part_(part),
      books_(books),
      candidates_(std::min(candidates, part.slice.k)),
      rows_(searched_padding ? part.width : part.rows),
      points_(static_cast<std::size_t>(part.width)) {
  const auto vectors = static_cast<std::size_t>(part.max_vectors()), m = static_cast<std::size_t>(candidates_);
  valid_.resize(vectors * m);
  if (books.residual == nullptr) return;
  rest_.resize(static_cast<std::size_t>(part.width) * m);
  distance_.resize(vectors * m);
  candidate_.resize(vectors * m);
  candidate_residual_.resize(vectors * m);
}

void ColumnSearch::nearest(std::int64_t n, std::int64_t dim, std::int64_t k, const float* book, std::int32_t* codes) {
  const std::int64_t whole = std::min(n, rows_ / dim);
  vq_.nearest(exec_, whole, dim, points_.data(), k, book, nullptr, codes, nullptr);
  if (whole == n) return;
  const auto valid = static_cast<std::int32_t>(rows_ - whole * dim);
  vq_.nearest(exec_, 1, dim, points_.data() + whole * dim, k, book, &valid, codes + whole, nullptr);
}

void ColumnSearch::greedy_residual(std::int64_t n, const ColumnBooks& column, const std::int32_t* codes,
                                   std::int32_t* residual_codes) {
  for (std::int64_t i = 0; i < n; ++i)
    for (std::int64_t d = 0; d < column.v; ++d)
      points_[static_cast<std::size_t>(i * column.v + d)] -= column.main[codes[i] * column.v + d];
  nearest(n, column.v, column.kr, column.residual, residual_codes);
}

void ColumnSearch::joint(std::int64_t n, const ColumnBooks& column, std::int32_t* codes, std::int32_t* residual_codes) {
  const std::int64_t v = column.v, m = candidates_, whole = std::min(n, rows_ / v);
  std::fill_n(valid_.begin(), n * m, static_cast<std::int32_t>(v));
  if (whole < n) std::fill_n(valid_.begin() + whole * m, m, static_cast<std::int32_t>(rows_ - whole * v));
  const std::int32_t* valid = whole < n ? valid_.data() : nullptr;
  vq_.nearest_m(exec_, whole, v, points_.data(), column.k, column.main, nullptr, m, candidate_.data());
  if (whole < n)
    vq_.nearest_m(exec_, 1, v, points_.data() + whole * v, column.k, column.main, valid_.data() + whole * m, m,
                  candidate_.data() + whole * m);
  float* rest = rest_.data();
  for (std::int64_t i = 0; i < n; ++i)
    for (std::int64_t j = 0; j < m; ++j, rest += v) {
      const float* centroid = column.main + candidate_[static_cast<std::size_t>(i * m + j)] * v;
      for (std::int64_t d = 0; d < v; ++d) rest[d] = points_[static_cast<std::size_t>(i * v + d)] - centroid[d];
    }
  vq_.nearest(exec_, n * m, v, rest_.data(), column.kr, column.residual, valid, candidate_residual_.data(),
              distance_.data());
  for (std::int64_t i = 0; i < n; ++i) {
    std::size_t best = static_cast<std::size_t>(i * m);
    for (std::int64_t j = 1; j < m; ++j) {
      const auto at = static_cast<std::size_t>(i * m + j);
      if (distance_[at] < distance_[best]) best = at;
    }
    codes[i] = candidate_[best];
    residual_codes[i] = candidate_residual_[best];
  }
}

void ColumnSearch::choose(std::int64_t position, const float* target, std::int32_t* codes, std::int32_t* residual_codes,
                          float* quantized) {
  const float scale = books_.scale[position], bias = books_.bias[position], inverse = 1.0F / scale;
  for (std::size_t r = 0; r < points_.size(); ++r) points_[r] = (target[r] - bias) * inverse;
  const ColumnBooks column = books_of(part_.slice, books_, position);
  const std::int64_t n = core::ceil_div(part_.rows, column.v);
  if (column.residual != nullptr && candidates_ > 1) {
    joint(n, column, codes, residual_codes);
  } else {
    nearest(n, column.v, column.k, column.main, codes);
    if (column.residual != nullptr) greedy_residual(n, column, codes, residual_codes);
  }
  decode_rows(column, codes, residual_codes, scale, bias, part_.rows, quantized);
  std::fill(quantized + part_.rows, quantized + part_.width, 0.0F);
}

}  // namespace voronoi::kernels::slice
