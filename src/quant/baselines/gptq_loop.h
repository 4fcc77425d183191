// The column loop of GPTQ for any family of grids.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "backend/device.h"
#include "core/error.h"
#include "core/index.h"
#include "core/work_counts.h"
#include "quant/baselines/gptq.h"
#include "quant/baselines/rtn_loop.h"
#include "quant/baselines/uniform.h"
#include "quant/method.h"

namespace voronoi::quant {

struct LoopGroups {
  std::int64_t size = 0;  ///< in effect: 1..in_features
  GroupGrid grid = GroupGrid::fixed;
};

inline constexpr std::int64_t kColumnBlock = 128;  // columns whose errors are spread at once over the rest

/// One tile of rows, transposed: w [in, rows] in processing order, so that a column's rows are contiguous. Tiles are
/// independent.
template <class Grids>
class GptqTile {
 public:
  GptqTile(const kernels::Exec& exec, const QuantInput& input, const float* factor, const LoopGroups& groups,
           const Grids& grids, std::int64_t first_row, std::int64_t rows)
      : exec_(exec),
        input_(input),
        factor_(factor),
        groups_(groups),
        family_(grids),
        in_(input.in_features),
        rows_(rows),
        n_groups_(core::ceil_div(in_, groups.size)),
        first_row_(first_row),
        w_(core::index(in_ * rows)),
        error_(core::index(kColumnBlock * rows)),
        grids_(core::index(n_groups_ * rows)) {
    for (std::int64_t row = 0; row < rows_; ++row)
      for (std::int64_t column = 0; column < in_; ++column)
        w_[core::index(column * rows_ + row)] = weights(row)[input.hessian->perm[core::index(column)]];
  }

  /// Writes this tile's part of `out`, whose rows start at out_row.
  void run(std::int64_t out_row, typename Grids::Codes& out) {
    if (groups_.grid == GroupGrid::fixed) fix_grids();
    for (std::int64_t begin = 0; begin < in_; begin += kColumnBlock) {
      const std::int64_t end = std::min(in_, begin + kColumnBlock);
      // No column of the block is touched yet: all groups that begin in it take their grids now.
      if (groups_.grid == GroupGrid::original) open_groups(begin, end);
      for (std::int64_t column = begin; column < end; ++column) {
        const float* factor_row = factor_ + column * in_;
        quantize_column(column, factor_row[column], error_.data() + (column - begin) * rows_, out_row, out);
        for (std::int64_t later = column + 1; later < end; ++later)
          subtract(factor_row[later], error_.data() + (column - begin) * rows_, w_.data() + later * rows_);
      }
      // The host's gemm whatever the device is: the column loop runs here, and tiles are dealt to the pool's threads.
      if (end < in_)
        kernels::cpu().linalg.gemm_f32(exec_, true, false, in_ - end, rows_, end - begin, -1.0F,
                                       factor_ + begin * in_ + end, in_, error_.data(), rows_, 1.0F,
                                       w_.data() + end * rows_, rows_);
    }
    for (std::int64_t row = 0; row < rows_; ++row)
      for (std::int64_t group = 0; group < n_groups_; ++group)
        out.put((out_row + row) * n_groups_ + group, grids_[core::index(group * rows_ + row)]);
  }

 private:
  const float* weights(std::int64_t row) const { return input_.weight.data() + (first_row_ + row) * in_; }

  void subtract(float factor, const float* error, float* target) const {
    for (std::int64_t row = 0; row < rows_; ++row) target[row] -= factor * error[row];
  }

  void fix_grids() {
    for (std::int64_t row = 0; row < rows_; ++row)
      for (std::int64_t group = 0; group < n_groups_; ++group) {
        const float* begin = weights(row) + group * groups_.size;
        const float* end = weights(row) + std::min(in_, (group + 1) * groups_.size);
        const auto [low, high] = std::minmax_element(begin, end);
        grids_[core::index(group * rows_ + row)] = family_.fit(*low, *high);
      }
  }

  /// Grids of the groups whose first column is one of [begin, end).
  void open_groups(std::int64_t begin, std::int64_t end) {
    for (std::int64_t group = core::ceil_div(begin, groups_.size); group * groups_.size < end; ++group) {
      const std::int64_t first = group * groups_.size, last = std::min(in_, first + groups_.size);
      for (std::int64_t row = 0; row < rows_; ++row) {
        float low = w_[core::index(first * rows_ + row)], high = low;
        for (std::int64_t column = first + 1; column < last; ++column) {
          low = std::min(low, w_[core::index(column * rows_ + row)]);
          high = std::max(high, w_[core::index(column * rows_ + row)]);
        }
        grids_[core::index(group * rows_ + row)] = family_.fit(low, high);
      }
    }
  }

  void quantize_column(std::int64_t column, float diagonal, float* error, std::int64_t out_row,
                       typename Grids::Codes& out) const {
    const std::int64_t place = groups_.grid == GroupGrid::fixed ? input_.hessian->perm[core::index(column)] : column;
    const typename Grids::Grid* grids = grids_.data() + place / groups_.size * rows_;
    const float* values = w_.data() + column * rows_;
    for (std::int64_t row = 0; row < rows_; ++row) {
      const std::uint16_t code = family_.code(grids[row], values[row]);
      error[row] = (values[row] - family_.value(grids[row], code)) / diagonal;
      out.codes[core::index((out_row + row) * in_ + place)] = code;
    }
  }

  const kernels::Exec& exec_;
  const QuantInput& input_;
  const float* factor_;
  const LoopGroups& groups_;
  const Grids& family_;
  std::int64_t in_, rows_, n_groups_, first_row_;
  std::vector<float> w_, error_;
  std::vector<typename Grids::Grid> grids_;  // [n_groups, rows]
};

/// As gptq_codes in gptq.h.
template <class Grids>
typename Grids::Codes gptq_codes(backend::Context& context, const QuantInput& input, const RowRange& range,
                                 const LoopGroups& groups, const Grids& grids) {
  VORONOI_REQUIRE(range.begin % kRowTile == 0, "rows of a team member start at a tile");
  const std::int64_t rows = range.end - range.begin;
  typename Grids::Codes codes(rows, input.in_features, groups.size);
  // What each column owes those behind it.
  core::count_work(core::Counted::gemm_flops,
                   static_cast<double>(rows * input.in_features) * static_cast<double>(input.in_features - 1));
  const kernels::Exec host{&context.pool(), nullptr};
  const backend::HostView<float> factor(context, input.hessian->factor.data(), input.hessian->factor.size());
  for_tiles(context.pool(), rows, [&](std::int64_t row, std::int64_t n) {
    GptqTile<Grids>(host, input, factor.values().data(), groups, grids, range.begin + row, n).run(row, codes);
  });
  return codes;
}

/// Bytes of the tiles that a rank's threads work at.
inline std::int64_t gptq_tile_bytes(const OperatorOnRank& r, std::int64_t group_size, std::int64_t grid_bytes) {
  const std::int64_t tiles = std::min<std::int64_t>(r.n_threads, core::ceil_div(r.out_features, kRowTile));
  return kRowTile * (4 * (r.in_features + kColumnBlock) + grid_bytes * core::ceil_div(r.in_features, group_size)) *
         tiles;
}

}  // namespace voronoi::quant
