#include "kernels/cpu/vq_slice.h"

#include <algorithm>
#include <bit>
#include <limits>
#include <numeric>

#include "core/error.h"
#include "core/types.h"
#include "hwy/base.h"

namespace voronoi::kernels {
namespace slice {

std::int64_t Part::max_vectors() const {
  const std::int64_t vectors = core::ceil_div(rows, slice.v);
  return slice.outlier_size > 0 ? std::max(vectors, core::ceil_div(rows, slice.v0)) : vectors;
}

Part part_of(const VqSlice& slice, std::int64_t index) {
  const std::int64_t begin = slice.part_begin[index], end = slice.part_begin[index + 1];
  return {slice, begin, end - begin, (index + 1 == slice.n_parts ? slice.width : end) - begin};
}

std::vector<Part> strips_of(const VqSlice& slice, int n_threads) {
  constexpr std::int64_t kLanes = 16;     // points of the widest registers
  constexpr std::int64_t kOverhead = 64;  // what a strip costs beside its rows, in rows
  const std::int64_t unit = slice.outlier_size > 0 ? std::lcm(slice.v, slice.v0) : slice.v,
                     registers = std::lcm(unit, kLanes * slice.v), step = registers <= kCpuStripRows ? registers : unit;
  // The threads take them in turn: the height that is through soonest.
  std::int64_t height = step, least = std::numeric_limits<std::int64_t>::max();
  for (std::int64_t rows = step; rows <= kCpuStripRows; rows += step) {
    const std::int64_t rounds = core::ceil_div(core::ceil_div(slice.rows, rows), std::int64_t{n_threads}),
                       time = rounds * (std::min(rows, slice.rows) + kOverhead);
    if (time > least) continue;
    least = time;
    height = rows;
  }
  std::vector<Part> strips;
  for (std::int64_t row = 0; row < slice.rows; row += height) {
    const std::int64_t rows = std::min(height, slice.rows - row);
    strips.push_back({slice, row, rows, row + rows == slice.rows ? slice.width - row : rows});
  }
  return strips;
}

ColumnBooks books_of(const VqSlice& slice, const VqBooks& books, std::int64_t position) {
  if (slice.is_outlier(position)) return {slice.v0, slice.k0, 0, books.outlier, nullptr};
  const std::int64_t group = slice.group_of(position);
  return {slice.v, slice.k, slice.kr, books.main + group * slice.k * slice.v,
          books.residual != nullptr ? books.residual + group * slice.kr * slice.v : nullptr};
}

namespace {

/// V: the vector length, 0 where it is known at run time only.
template <std::int64_t V>
void decode_vectors(const ColumnBooks& books, const std::int32_t* codes, const std::int32_t* residual_codes,
                    float scale, float bias, std::int64_t rows, float* out) {
  const std::int64_t v = V > 0 ? V : books.v;
  const auto decode_one = [&](std::int64_t i, std::int64_t count) {
    const float* HWY_RESTRICT main = books.main + codes[i] * v;
    float* HWY_RESTRICT to = out + i * v;
    if (books.residual == nullptr) {
      for (std::int64_t d = 0; d < count; ++d) to[d] = main[d] * scale + bias;
      return;
    }
    const float* HWY_RESTRICT residual = books.residual + residual_codes[i] * v;
    for (std::int64_t d = 0; d < count; ++d) to[d] = (main[d] + residual[d]) * scale + bias;
  };
  const std::int64_t whole = rows / v;
  for (std::int64_t i = 0; i < whole; ++i) decode_one(i, V > 0 ? V : v);
  if (whole * v < rows) decode_one(whole, rows - whole * v);
}

}  // namespace

void decode_rows(const ColumnBooks& books, const std::int32_t* codes, const std::int32_t* residual_codes, float scale,
                 float bias, std::int64_t rows, float* out) {
  switch (books.v) {
    case 4:
      return decode_vectors<4>(books, codes, residual_codes, scale, bias, rows, out);
    case 6:
      return decode_vectors<6>(books, codes, residual_codes, scale, bias, rows, out);
    case 8:
      return decode_vectors<8>(books, codes, residual_codes, scale, bias, rows, out);
    default:
      return decode_vectors<0>(books, codes, residual_codes, scale, bias, rows, out);
  }
}

void copy_rows(std::int64_t count, std::int64_t width, const float* from, std::int64_t from_stride, float* to,
               std::int64_t to_stride) {
  for (std::int64_t i = 0; i < count; ++i) std::copy_n(from + i * from_stride, width, to + i * to_stride);
}

namespace {

constexpr std::int64_t kColumns = 64;  // a unit of work where columns are independent

void transpose(const Exec& exec, const VqSlice& slice, const float* weight, const std::int32_t* perm, float* matrix) {
  exec.pool->parallel_for(slice.n_parts, [&](std::int64_t index) {
    const Part part = part_of(slice, index);
    for (std::int64_t p = 0; p < slice.in_features; ++p) {
      const float* source = weight + part.row * slice.in_features + perm[p];
      float* column = matrix + p * slice.width + part.row;
      for (std::int64_t r = 0; r < part.rows; ++r) column[r] = source[r * slice.in_features];
      std::fill(column + part.rows, column + part.width, 0.0F);
    }
  });
}

void decode(const Exec& exec, const VqSlice& slice, const VqBooks& books, const VqCodes& codes, float* matrix) {
  exec.pool->parallel_for(core::ceil_div(slice.in_features, kColumns), [&](std::int64_t block) {
    for (std::int64_t p = block * kColumns; p < std::min(slice.in_features, (block + 1) * kColumns); ++p) {
      float* column = matrix + p * slice.width;
      const std::int64_t at = p * slice.code_stride;
      decode_rows(books_of(slice, books, p), codes.main + at, codes.residual != nullptr ? codes.residual + at : nullptr,
                  books.scale[p], books.bias[p], slice.rows, column);
      std::fill(column + slice.rows, column + slice.width, 0.0F);
    }
  });
}

void gather_training(const Exec& exec, const VqSlice& slice, const TrainingRange& range, const float* matrix,
                     const float* scale, const float* bias, const float* column_weight, float* points, float* weights) {
  VORONOI_REQUIRE(range.dim >= 1 && range.stride >= 1, "gather_training: dim, stride >= 1");
  std::vector<std::int64_t> first{0};
  for (std::int64_t i = 0; i < slice.n_parts; ++i)
    first.push_back(first.back() + core::ceil_div(part_of(slice, i).rows / range.dim * range.count, range.stride));
  exec.pool->parallel_for(slice.n_parts, [&](std::int64_t index) {
    const Part part = part_of(slice, index);
    const std::int64_t per_column = part.rows / range.dim;
    std::int64_t i = first[static_cast<std::size_t>(index)];
    for (std::int64_t at = 0; at < per_column * range.count; at += range.stride, ++i) {
      const std::int64_t column = at / per_column, p = range.first + column;
      const float inverse = 1.0F / scale[p], offset = bias != nullptr ? bias[p] : 0.0F;
      const float* vector = matrix + p * slice.width + part.row + (at - column * per_column) * range.dim;
      for (std::int64_t d = 0; d < range.dim; ++d) points[i * range.dim + d] = (vector[d] - offset) * inverse;
      weights[i] = column_weight[column];
    }
  });
}

void subtract(const Exec& exec, std::int64_t n, const float* a, const float* b, float* out) {
  constexpr std::int64_t kValues = 1 << 16;
  exec.pool->parallel_for(core::ceil_div(n, kValues), [&](std::int64_t block) {
    for (std::int64_t i = block * kValues; i < std::min(n, (block + 1) * kValues); ++i) out[i] = a[i] - b[i];
  });
}

void pack(const Exec& exec, const VqSlice& slice, const VqCodes& codes, const std::int32_t* stored,
          std::uint32_t* words, std::uint16_t* outlier_words) {
  const int main_bits = std::countr_zero(static_cast<std::uint64_t>(slice.k)),
            bits = main_bits + (slice.kr > 0 ? std::countr_zero(static_cast<std::uint64_t>(slice.kr)) : 0);
  const std::int64_t vectors = core::ceil_div(slice.rows, slice.v),
                     row_words = core::ceil_div(slice.group_size * bits, std::int64_t{32});
  exec.pool->parallel_for(vectors, [&](std::int64_t i) {
    for (std::int64_t group = 0; group < slice.groups; ++group) {
      std::uint32_t* row = words + (group * vectors + i) * row_words;
      std::fill_n(row, row_words, 0U);
      for (std::int64_t j = group * slice.group_size; j < (group + 1) * slice.group_size; ++j) {
        const std::int64_t at = (slice.outlier_size + j) * slice.code_stride + i;
        auto value = static_cast<std::uint64_t>(static_cast<std::uint32_t>(codes.main[at]));
        if (slice.kr > 0) value |= static_cast<std::uint64_t>(codes.residual[at]) << main_bits;
        const std::int64_t bit = stored[j] * std::int64_t{bits};
        value <<= bit % 32;
        row[bit / 32] |= static_cast<std::uint32_t>(value);
        if (bit % 32 + bits > 32) row[bit / 32 + 1] |= static_cast<std::uint32_t>(value >> 32);
      }
    }
  });
  if (slice.outlier_size == 0) return;
  exec.pool->parallel_for(core::ceil_div(slice.rows, slice.v0), [&](std::int64_t i) {
    for (std::int64_t p = 0; p < slice.outlier_size; ++p)
      outlier_words[i * slice.outlier_size + p] = static_cast<std::uint16_t>(codes.main[p * slice.code_stride + i]);
  });
}

}  // namespace
}  // namespace slice

VqSliceKernels cpu_vq_slice_kernels() {
  return {.transpose = slice::transpose,
          .decode = slice::decode,
          .gather_training = slice::gather_training,
          .column_loop = slice::column_loop,
          .sweep = slice::sweep,
          .subtract = slice::subtract,
          .dots = slice::dots,
          .collect_books = slice::collect_books,
          .collect_columns = slice::collect_columns,
          .pack = slice::pack};
}

}  // namespace voronoi::kernels
