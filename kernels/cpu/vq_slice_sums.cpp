// Sums over the rows of a slice, a part at a time.
#include <algorithm>

#include "core/types.h"
#include "kernels/cpu/scratch.h"
#include "kernels/cpu/vq_slice.h"

namespace voronoi::kernels::slice {
namespace {

/// body(part, sums of that part, zero at first) for all parts; combined: their sum, added in order.
template <class Body>
void sum_parts(const Exec& exec, const VqSlice& slice, std::int64_t size, bool combined, double* sums,
               const Body& body) {
  constexpr std::int64_t kValues = 8192;
  Scratch<double> scratch(combined ? slice.n_parts * size : 0);
  double* parts = combined ? scratch.data() : sums;
  exec.pool->parallel_for(slice.n_parts, [&](std::int64_t index) {
    std::fill_n(parts + index * size, size, 0.0);
    body(part_of(slice, index), parts + index * size);
  });
  if (!combined) return;
  exec.pool->parallel_for(core::ceil_div(size, kValues), [&](std::int64_t block) {
    const std::int64_t begin = block * kValues, end = std::min(size, begin + kValues);
    std::fill(sums + begin, sums + end, 0.0);
    for (std::int64_t part = 0; part < slice.n_parts; ++part)
      for (std::int64_t i = begin; i < end; ++i) sums[i] += parts[part * size + i];
  });
}

/// Adds value(p, r) to the entries that row r of position p is decoded from.
template <class Value>
void scatter(const Part& part, const VqCodes& codes, double* sums, const Value& value) {
  const VqSlice& s = part.slice;
  const std::int64_t main_size = s.groups * s.k * s.v,
                     residual_size = codes.residual != nullptr ? s.groups * s.kr * s.v : 0;
  for (std::int64_t p = 0; p < s.in_features; ++p) {
    const bool outlier = s.is_outlier(p);
    const std::int64_t v = part.vector_length(p), group = outlier ? 0 : s.group_of(p), at = part.codes_at(p);
    double* main = sums + (outlier ? main_size + residual_size : group * s.k * v);
    double* residual = outlier || residual_size == 0 ? nullptr : sums + main_size + group * s.kr * v;
    for (std::int64_t r = 0, i = 0; r < part.rows; r += v, ++i) {
      const std::int64_t end = std::min(v, part.rows - r);
      double* a = main + codes.main[at + i] * v;
      for (std::int64_t d = 0; d < end; ++d) a[d] += value(p, part.row + r + d);
      if (residual == nullptr) continue;
      double* b = residual + codes.residual[at + i] * v;
      for (std::int64_t d = 0; d < end; ++d) b[d] += value(p, part.row + r + d);
    }
  }
}

}  // namespace

void dots(const Exec& exec, const VqSlice& slice, const float* a, const float* b, bool combined, double* sums) {
  sum_parts(exec, slice, 1, combined, sums, [&](const Part& part, double* sum) {
    double total = 0;
    for (std::int64_t p = 0; p < slice.in_features; ++p) {
      const float* x = a + p * slice.width + part.row;
      const float* y = b + p * slice.width + part.row;
      for (std::int64_t r = 0; r < part.rows; ++r) total += static_cast<double>(x[r]) * static_cast<double>(y[r]);
    }
    *sum = total;
  });
}

void collect_books(const Exec& exec, const VqSlice& slice, const VqCodes& codes, const float* scale, const float* g,
                   const float* diagonal, bool combined, double* sums) {
  const std::int64_t size = slice.groups * slice.k * slice.v +
                            (codes.residual != nullptr ? slice.groups * slice.kr * slice.v : 0) + slice.k0 * slice.v0;
  sum_parts(exec, slice, size, combined, sums, [&](const Part& part, double* sum) {
    if (g != nullptr)
      scatter(part, codes, sum, [&](std::int64_t p, std::int64_t r) {
        return static_cast<double>(scale[p]) * static_cast<double>(g[p * slice.width + r]);
      });
    else
      scatter(part, codes, sum, [&](std::int64_t p, std::int64_t) {
        const double factor = static_cast<double>(scale[p]);
        return factor * factor * static_cast<double>(diagonal[p]);
      });
  });
}

void collect_columns(const Exec& exec, const VqSlice& slice, const VqBooks& books, const VqCodes& codes, const float* g,
                     const float* diagonal, bool combined, double* sums) {
  const std::int64_t n = slice.in_features;
  sum_parts(exec, slice, 2 * n, combined, sums, [&](const Part& part, double* sum) {
    std::vector<float> column(static_cast<std::size_t>(part.rows));
    for (std::int64_t p = 0; p < n; ++p) {
      const std::int64_t at = part.codes_at(p);
      decode_rows(books_of(slice, books, p), codes.main + at, codes.residual != nullptr ? codes.residual + at : nullptr,
                  1.0F, 0.0F, part.rows, column.data());
      double along_scale = 0, along_bias = 0;
      if (g != nullptr) {
        const float* gradient = g + p * slice.width + part.row;
        for (std::int64_t r = 0; r < part.rows; ++r) {
          along_scale += static_cast<double>(gradient[r]) * static_cast<double>(column[static_cast<std::size_t>(r)]);
          along_bias += static_cast<double>(gradient[r]);
        }
      } else {
        const double h = static_cast<double>(diagonal[p]);
        for (const float value : column) along_scale += static_cast<double>(value) * static_cast<double>(value);
        along_scale *= h;
        along_bias = h * static_cast<double>(part.rows);
      }
      sum[p] = along_scale;
      sum[n + p] = along_bias;
    }
  });
}

}  // namespace voronoi::kernels::slice
