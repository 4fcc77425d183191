// The choice of codes for one column of a strip.
#include <algorithm>

#include "core/types.h"
#include "kernels/cpu/column_rows.h"
#include "kernels/cpu/vq_slice.h"

namespace voronoi::kernels::slice {

using vq::kBlockPoints;

PackedBooks::PackedBooks(const Exec& exec, const VqSlice& slice, const VqBooks& books, bool searched_padding)
    : slice_(slice),
      main_(static_cast<std::size_t>(slice.groups)),
      residual_(books.residual != nullptr ? main_.size() : 0) {
  const auto pack = [&](std::int64_t dim, std::int64_t k, const float* centroids) -> Book {
    Book book{vq::PackedPanels(dim, dim, k, centroids), std::nullopt, searched_padding ? 0 : slice.rows % dim};
    if (book.tail_rows > 0) book.tail.emplace(dim, book.tail_rows, k, centroids);
    return book;
  };
  const auto n_main = static_cast<std::int64_t>(main_.size()),
             n_books = n_main + static_cast<std::int64_t>(residual_.size());
  exec.pool->parallel_for(n_books + (slice.outlier_size > 0 ? 1 : 0), [&](std::int64_t i) {
    if (i < n_main)
      main_[static_cast<std::size_t>(i)].emplace(pack(slice.v, slice.k, books.main + i * slice.k * slice.v));
    else if (i < n_books)
      residual_[static_cast<std::size_t>(i - n_main)].emplace(
          pack(slice.v, slice.kr, books.residual + (i - n_main) * slice.kr * slice.v));
    else
      outlier_.emplace(pack(slice.v0, slice.k0, books.outlier));
  });
}

ColumnSearch::ColumnSearch(const Part& strip, const VqBooks& books, const PackedBooks& packed, std::int64_t candidates)
    : strip_(strip),
      books_(books),
      packed_(packed),
      candidates_(std::min(candidates, strip.slice.k)),
      points_(static_cast<std::size_t>(strip.width)) {
  if (books.residual == nullptr) return;
  const auto vectors = static_cast<std::size_t>(strip.max_vectors()), m = static_cast<std::size_t>(candidates_);
  rest_.resize(static_cast<std::size_t>(strip.width) * m);
  distance_.resize(vectors * m);
  candidate_.resize(vectors * m);
  candidate_residual_.resize(vectors * m);
}

bool ColumnSearch::ends_in_tail(std::int64_t n, const PackedBooks::Book& book) const {
  return book.tail_rows > 0 && n * book.whole.view().dim > strip_.rows;
}

void ColumnSearch::nearest(std::int64_t n, const PackedBooks::Book& book, std::int32_t* codes) const {
  const std::int64_t dim = book.whole.view().dim, whole = n - (ends_in_tail(n, book) ? 1 : 0);
  for (std::int64_t i = 0; i < whole; i += kBlockPoints)
    vq::nearest_block(book.whole.view(), std::min(kBlockPoints, whole - i), points_.data() + i * dim, codes + i,
                      nullptr);
  if (whole < n) vq::nearest_block(book.tail->view(), 1, points_.data() + whole * dim, codes + whole, nullptr);
}

void ColumnSearch::greedy_residual(std::int64_t n, const ColumnBooks& column, const PackedBooks::Book& book,
                                   const std::int32_t* codes, std::int32_t* residual_codes) {
  for (std::int64_t i = 0; i < n; ++i)
    for (std::int64_t d = 0; d < column.v; ++d)
      points_[static_cast<std::size_t>(i * column.v + d)] -= column.main[codes[i] * column.v + d];
  clear_tail(n, book);
  nearest(n, book, residual_codes);
}

void ColumnSearch::clear_tail(std::int64_t n, const PackedBooks::Book& book) {
  if (ends_in_tail(n, book)) std::fill(points_.begin() + strip_.rows, points_.end(), 0.0F);
}

void ColumnSearch::joint(std::int64_t n, const ColumnBooks& column, const PackedBooks::Book& main,
                         const PackedBooks::Book& residual, std::int32_t* codes, std::int32_t* residual_codes) {
  const std::int64_t v = column.v, m = candidates_, whole = n - (ends_in_tail(n, main) ? 1 : 0);
  for (std::int64_t i = 0; i < whole; i += kBlockPoints)
    vq::nearest_m_block(main.whole.view(), std::min(kBlockPoints, whole - i), points_.data() + i * v, m,
                        candidate_.data() + i * m);
  if (whole < n)
    vq::nearest_m_block(main.tail->view(), 1, points_.data() + whole * v, m, candidate_.data() + whole * m);
  float* rest = rest_.data();
  for (std::int64_t i = 0; i < n; ++i)
    for (std::int64_t j = 0; j < m; ++j, rest += v) {
      const float* centroid = column.main + candidate_[static_cast<std::size_t>(i * m + j)] * v;
      const std::int64_t valid = i < whole ? v : main.tail_rows;
      for (std::int64_t d = 0; d < valid; ++d) rest[d] = points_[static_cast<std::size_t>(i * v + d)] - centroid[d];
      std::fill(rest + valid, rest + v, 0.0F);
    }
  for (std::int64_t i = 0; i < whole * m; i += kBlockPoints)
    vq::nearest_block(residual.whole.view(), std::min(kBlockPoints, whole * m - i), rest_.data() + i * v,
                      candidate_residual_.data() + i, distance_.data() + i);
  if (whole < n) {
    const std::int64_t first = whole * m;
    vq::nearest_block(residual.tail->view(), m, rest_.data() + first * v, candidate_residual_.data() + first, nullptr);
    for (std::int64_t i = first; i < first + m; ++i)
      distance_[static_cast<std::size_t>(i)] = vq::squared_distance(
          main.tail_rows, rest_.data() + i * v, column.residual + candidate_residual_[static_cast<std::size_t>(i)] * v);
  }
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
  const float scale = books_.scale[position], bias = books_.bias[position];
  const ColumnBooks column = books_of(strip_.slice, books_, position);
  const PackedBooks::Book& main = packed_.main(position);
  const std::int64_t n = core::ceil_div(strip_.rows, column.v);
  to_search_units(strip_.width, target, bias, 1.0F / scale, points_.data());
  clear_tail(n, main);
  if (column.residual == nullptr) {
    nearest(n, main, codes);
  } else if (candidates_ > 1) {
    joint(n, column, main, packed_.residual(position), codes, residual_codes);
  } else {
    nearest(n, main, codes);
    greedy_residual(n, column, packed_.residual(position), codes, residual_codes);
  }
  decode_rows(column, codes, residual_codes, scale, bias, strip_.rows, quantized);
  std::fill(quantized + strip_.rows, quantized + strip_.width, 0.0F);
}

}  // namespace voronoi::kernels::slice
