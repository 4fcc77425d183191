#include "quant/gptvq/strip_loop.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "core/error.h"
#include "core/index.h"
#include "core/types.h"

namespace voronoi::quant {

using core::index;

namespace {

constexpr std::int64_t kTileRows = 128;       // rows whose columns lie together
constexpr std::int64_t kSpreadColumns = 128;  // columns whose errors are spread at once over the rest
constexpr std::int64_t kMostVectorColumns = 4;

/// Rows [first, first + n) of the member, transposed: w [in, n] in processing order.
struct RowTile {
  std::int64_t first = 0, n = 0;
  std::vector<float> w;
  float* column(std::int64_t c) { return w.data() + c * n; }
  const float* column(std::int64_t c) const { return w.data() + c * n; }
};

/// Work memory of one thread in a tile.
struct TileRoom {
  TileRoom(std::int64_t d, std::int64_t k)
      : book(index((d + 1) * k)),
        values(index(d * kTileRows)),
        points(index(d * kTileRows)),
        error(index(kSpreadColumns * kTileRows)) {}
  std::vector<float> book, values, points, error;
  std::array<float, kTileRows> scale{};
  std::array<std::int32_t, kTileRows> nearest{};
};

/// T x for n vectors by column: from and to [d, stride each].
void transform_rows(std::int64_t d, const float* t, std::int64_t n, const float* from, std::int64_t from_stride,
                    float* to, std::int64_t to_stride) {
  for (std::int64_t i = 0; i < d; ++i) {
    float* target = to + i * to_stride;
    for (std::int64_t row = 0; row < n; ++row) target[row] = t[i * d] * from[row];
    for (std::int64_t l = 1; l <= i; ++l)
      for (std::int64_t row = 0; row < n; ++row) target[row] += t[i * d + l] * from[l * from_stride + row];
  }
}

class StripLoop {
 public:
  StripLoop(core::ThreadPool& pool, const QuantInput& input, std::span<const float> factor, const VectorMetric& metric,
            const StripRule& rule, GptvqCodes& codes)
      : pool_(pool),
        host_{&pool, nullptr},
        factor_(factor.data()),
        metric_(metric),
        rule_(rule),
        codes_(codes),
        e_(codes.extents),
        in_(e_.in_features),
        d_(e_.vector_columns) {
    tiles_.resize(index(core::ceil_div(codes.groups.rows, kTileRows)));
    pool.parallel_for(std::ssize(tiles_), [&](std::int64_t i) {
      RowTile& tile = tiles_[index(i)];
      tile.first = i * kTileRows;
      tile.n = std::min(kTileRows, codes.groups.rows - tile.first);
      tile.w.resize(index(in_ * tile.n));
      for (std::int64_t row = 0; row < tile.n; ++row) {
        const float* weight = input.weight.data() + (codes.groups.row_begin + tile.first + row) * in_;
        for (std::int64_t c = 0; c < in_; ++c) tile.column(c)[row] = weight[input.hessian->perm[index(c)]];
      }
    });
  }

  StripFigures run() {
    for (std::int64_t strip = 0; strip < e_.strips(); ++strip) {
      begin_ = strip * e_.group_columns;
      end_ = std::min(in_, begin_ + e_.group_columns);
      if (e_.scale_block > 0) choose_scales();
      std::vector<std::vector<float>> before(tiles_.size());  // the strip's columns as they stand here
      for (std::size_t t = 0; t < tiles_.size(); ++t)
        if (rule_.passes > 1) before[t].assign(tiles_[t].column(begin_), tiles_[t].column(end_));
      fitted_.assign(index(codes_.groups.count), {});
      for (int pass = 0; pass < rule_.passes; ++pass) {
        fit(strip);
        // A vector's weights stay as the pass met them.
        for (std::size_t t = 0; pass > 0 && t < tiles_.size(); ++t)
          std::copy(before[t].begin(), before[t].end(), tiles_[t].column(begin_));
        const bool last = pass + 1 == rule_.passes;
        pool_.parallel_for(std::ssize(tiles_),
                           [&](std::int64_t t) { sweep(strip, last ? in_ : end_, tiles_[index(t)]); });
      }
      for (const BookFit& fit : fitted_) figures_.unused += fit.unused;
    }
    return figures_;
  }

 private:
  std::int64_t rows_of(std::int64_t group) const {
    return std::min(e_.group_rows, codes_.groups.rows - group * e_.group_rows);
  }

  void choose_scales() {
    for (const RowTile& tile : tiles_)
      for (std::int64_t block = begin_ / e_.scale_block; block * e_.scale_block < end_; ++block) {
        const float base = core::from_bits16(e_.dtype, codes_.block_grid[index(2 * block)]),
                    ratio = core::from_bits16(e_.dtype, codes_.block_grid[index(2 * block + 1)]);
        const std::int64_t stop = std::min(end_, (block + 1) * e_.scale_block);
        for (std::int64_t row = 0; row < tile.n; ++row) {
          float largest = 0;
          for (std::int64_t c = block * e_.scale_block; c < stop; ++c)
            largest = std::max(largest, std::fabs(tile.column(c)[row]));
          const std::size_t place = index((tile.first + row) * e_.blocks() + block);
          codes_.block_codes[place] = block_code(base, ratio, largest);
          codes_.block_scales[place] = kernels::block_scale(base, ratio, codes_.block_codes[place]);
        }
      }
  }

  /// The codebooks of the strip, to its weights as they stand.
  void fit(std::int64_t strip) {
    const ForEach alone = [](std::int64_t n, const std::function<void(std::int64_t)>& body) {
      for (std::int64_t i = 0; i < n; ++i) body(i);
    };
    const ForEach together = [this](std::int64_t n, const std::function<void(std::int64_t)>& body) {
      pool_.parallel_for(n, body);
    };
    // Few groups are fitted one after another by all threads. The sums are the same either way.
    const std::int64_t n = codes_.groups.count;
    const bool many = n >= 4 * pool_.size();
    (many ? together : alone)(n, [&](std::int64_t group) {
      BookFit& fit = fitted_[index(group)];
      BookPoints points = points_of(group);
      std::vector<float> start = fit.centroids.empty() ? mahalanobis_start(points, e_.centroids) : fit.centroids;
      points.transform();
      fit = fit_book(many ? alone : together, points, std::move(start), rule_.book);
      codes_.store(codes_.book(group, strip), fit.centroids);
    });
    for (const BookFit& fit : fitted_) figures_.steps += std::ssize(fit.objective);
  }

  BookPoints points_of(std::int64_t group) const {
    const std::int64_t rows = rows_of(group), first = group * e_.group_rows;
    BookPoints points(d_, (end_ - begin_) / d_, rows);
    points.metric = metric_.of_fit(begin_ / d_);
    const bool masses = e_.scale_block > 0 && !rule_.published;
    if (masses) points.mass.resize(index(points.columns * points.lanes));
    for (std::int64_t row = 0; row < rows;) {
      const RowTile& tile = tiles_[index((first + row) / kTileRows)];
      const std::int64_t in_tile = first + row - tile.first, n = std::min(rows - row, tile.n - in_tile);
      for (std::int64_t c = begin_; c < end_; ++c) {
        float* target = points.column((c - begin_) / d_) + (c - begin_) % d_ * points.lanes + row;
        std::copy_n(tile.column(c) + in_tile, n, target);
        if (e_.scale_block == 0) continue;
        for (std::int64_t i = 0; i < n; ++i) {
          const float scale = codes_.scale(first + row + i, c);
          target[i] /= scale;
          if (masses) points.mass[index((c - begin_) / d_ * points.lanes + row + i)] = scale * scale;
        }
      }
      row += n;
    }
    return points;
  }

  /// Codes the strip's columns of a tile; errors reach the columns before `limit`.
  void sweep(std::int64_t strip, std::int64_t limit, RowTile& tile) {
    TileRoom room(d_, e_.centroids);
    const std::int64_t first_group = tile.first / e_.group_rows, last_group = (tile.first + tile.n - 1) / e_.group_rows;
    std::vector<std::vector<float>> books;
    for (std::int64_t group = first_group; group <= last_group; ++group)
      books.push_back(by_column(d_, codes_.values(codes_.book(group, strip))));
    for (std::int64_t begin = begin_; begin < end_; begin += kSpreadColumns) {
      const std::int64_t end = std::min(end_, begin + kSpreadColumns);
      for (std::int64_t c = begin; c < end; c += d_) {
        float* error = room.error.data() + (c - begin) * tile.n;
        for (std::int64_t group = first_group; group <= last_group; ++group)
          code_vectors(c, group, books[index(group - first_group)], strip, tile, room, error);
        for (std::int64_t later = c + d_; later < end; ++later)
          for (std::int64_t i = 0; i < d_; ++i) {
            const float by = factor_[(c + i) * in_ + later];
            float* target = tile.column(later);
            const float* from = error + i * tile.n;
            for (std::int64_t row = 0; row < tile.n; ++row) target[row] -= by * from[row];
          }
      }
      // The host's gemm whatever the device is: tiles are dealt to the pool's threads.
      if (end < limit)
        kernels::cpu().linalg.gemm_f32(host_, true, false, limit - end, tile.n, end - begin, -1.0F,
                                       factor_ + begin * in_ + end, in_, room.error.data(), tile.n, 1.0F,
                                       tile.column(end), tile.n);
    }
  }

  /// The vectors at columns c .. of the rows that a group has in the tile; their errors to error [d, tile.n].
  void code_vectors(std::int64_t c, std::int64_t group, const std::vector<float>& book, std::int64_t strip,
                    const RowTile& tile, TileRoom& room, float* error) {
    const std::int64_t begin = std::max<std::int64_t>(0, group * e_.group_rows - tile.first),
                       end = std::min(tile.n, (group + 1) * e_.group_rows - tile.first), n = end - begin;
    const std::int64_t j = c / d_;
    const bool scaled = e_.scale_block > 0;
    float *values = room.values.data(), *points = room.points.data();
    for (std::int64_t row = 0; scaled && row < n; ++row)
      room.scale[index(row)] = codes_.scale(tile.first + begin + row, c);
    for (std::int64_t i = 0; i < d_; ++i) {
      float* target = values + i * kTileRows;
      std::copy_n(tile.column(c + i) + begin, n, target);
      for (std::int64_t row = 0; scaled && row < n; ++row) target[row] /= room.scale[index(row)];
    }
    transform_rows(d_, metric_.of_look(j), n, values, kTileRows, points, kTileRows);
    for (std::int64_t i = 0; i < d_; ++i)
      std::fill(points + i * kTileRows + n, points + i * kTileRows + kernels::host_lanes(n), 0.0F);
    transform_book(d_, e_.centroids, book.data(), metric_.of_look(j), room.book.data());
    kernels::nearest_by_column(n, d_, points, kTileRows, e_.centroids, room.book.data(), room.nearest.data());

    std::uint16_t* indices = codes_.indices.data() + (tile.first + begin) * e_.vectors() + j;
    const float* centroids = codes_.values(codes_.book(group, strip)).data();
    for (std::int64_t row = 0; row < n; ++row) {
      const std::int64_t code = room.nearest[index(row)];
      indices[row * e_.vectors()] = static_cast<std::uint16_t>(code);
      for (std::int64_t i = 0; i < d_; ++i) values[i * kTileRows + row] = centroids[code * d_ + i];
    }
    for (std::int64_t i = 0; i < d_; ++i) {
      const float* w = tile.column(c + i) + begin;
      float* target = values + i * kTileRows;
      for (std::int64_t row = 0; scaled && row < n; ++row) target[row] *= room.scale[index(row)];
      for (std::int64_t row = 0; row < n; ++row) target[row] = w[row] - target[row];
    }
    transform_rows(d_, metric_.of_error(j), n, values, kTileRows, error + begin, tile.n);
  }

  core::ThreadPool& pool_;
  kernels::Exec host_;
  const float* factor_;
  const VectorMetric& metric_;
  const StripRule& rule_;
  GptvqCodes& codes_;
  const format::GptvqExtents& e_;
  std::int64_t in_, d_;
  std::int64_t begin_ = 0, end_ = 0;  // columns of the strip
  std::vector<RowTile> tiles_;
  std::vector<BookFit> fitted_;  // by group
  StripFigures figures_;
};

}  // namespace

VectorMetric vector_metric(std::int64_t n, std::int64_t d, std::span<const float> factor, bool published) {
  VORONOI_REQUIRE(d >= 1 && d <= kMostVectorColumns && n % d == 0, "columns are whole vectors");
  VectorMetric metric;
  metric.d = d;
  metric.error.assign(index(n * d), 0.0F);
  if (published) {
    metric.fit = metric.look = metric.error;
    for (std::int64_t c = 0; c < n; ++c) {
      const float u = factor[index(c * n + c)];
      const std::size_t place = index(c / d * d * d + c % d * (d + 1));
      metric.fit[place] = d == 1 ? 1.0F : std::sqrt(u);
      metric.look[place] = d == 1 ? 1.0F : 1 / std::sqrt(u);
      metric.error[place] = 1 / u;
    }
    return metric;
  }
  for (std::int64_t j = 0; j < n / d; ++j) {
    // The inverse of the lower L = U_BB', row by row.
    double t[kMostVectorColumns][kMostVectorColumns] = {};
    const auto l = [&](std::int64_t row, std::int64_t column) {
      return static_cast<double>(factor[index((j * d + column) * n + j * d + row)]);
    };
    for (std::int64_t i = 0; i < d; ++i)
      for (std::int64_t c = 0; c <= i; ++c) {
        double value = i == c ? 1 : 0;
        for (std::int64_t m = c; m < i; ++m) value -= l(i, m) * t[m][c];
        t[i][c] = value / l(i, i);
        metric.error[index(j * d * d + i * d + c)] = static_cast<float>(t[i][c]);
      }
  }
  metric.fit = metric.look = metric.error;
  return metric;
}

StripFigures run_strips(core::ThreadPool& pool, const QuantInput& input, std::span<const float> factor,
                        const VectorMetric& metric, const StripRule& rule, GptvqCodes& codes) {
  return StripLoop(pool, input, factor, metric, rule, codes).run();
}

}  // namespace voronoi::quant
