// The ends of every group's grid as its own block of H asks for, for any family of grids and any list of clips.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <limits>
#include <span>
#include <utility>
#include <vector>

#include "backend/device.h"
#include "core/bytes.h"
#include "core/index.h"
#include "core/team.h"
#include "quant/baselines/rtn_loop.h"
#include "quant/baselines/uniform.h"
#include "quant/cost.h"
#include "quant/memory.h"
#include "quant/method.h"

namespace voronoi::quant {

/// Of a group's weights.
struct GroupEnds {
  float low = 0, high = 0;
};

/// What the search costs is fp32 products; their row sums are in fp64, in a fixed order that a compiler may still use
/// vectors for.
inline double clip_cost(const float* a, const float* b, std::int64_t n) {
  constexpr std::int64_t kLanes = 8;
  std::array<double, kLanes> sums{};
  std::int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes)
    for (std::int64_t lane = 0; lane < kLanes; ++lane)
      sums[core::index(lane)] += static_cast<double>(a[i + lane]) * static_cast<double>(b[i + lane]);
  for (; i < n; ++i) sums[0] += static_cast<double>(a[i]) * static_cast<double>(b[i]);
  double sum = 0;
  for (const double part : sums) sum += part;
  return sum;
}

/// A tile of rows of one linear, group after group. Tiles are independent. Clips: kCount, ends(of_group, i) for the
/// i-th of them, and kClamps, whether weights are brought between the ends before they are rounded (the zero's rounding
/// may leave a point of the grid beyond an end).
template <class Grids, class Clips>
class ClipTile {
 public:
  /// h: [in, in], host memory; column_scale as scaled_rows takes it.
  ClipTile(const kernels::Exec& exec, const QuantInput& input, const float* h, const Grids& grids,
           std::span<const float> column_scale, std::int64_t group_size, std::int64_t first_row, std::int64_t rows)
      : exec_(exec),
        h_(h),
        grids_(grids),
        column_scale_(column_scale),
        weight_(scaled_rows(input, first_row, rows, column_scale)),
        in_(input.in_features),
        group_size_(group_size),
        rows_(rows),
        ends_(core::index(rows)),
        best_(core::index(rows)),
        least_(core::index(rows)),
        error_(core::index(rows * group_size)),
        product_(core::index(rows * group_size)),
        clamped_(core::index(group_size)) {}

  /// Writes this tile's part of `out`, whose rows start at out_row; chose(i) for each group's clip.
  template <class Chose>
  void run(std::int64_t out_row, typename Grids::Codes& out, const Chose& chose) {
    const std::int64_t n_groups = core::ceil_div(in_, group_size_);
    for (std::int64_t g = 0; g < n_groups; ++g) {
      const std::int64_t begin = g * group_size_, width = std::min(in_ - begin, group_size_);
      search(begin, width);
      for (std::int64_t row = 0; row < rows_; ++row) {
        const GroupEnds ends = Clips::ends(ends_[core::index(row)], best_[core::index(row)]);
        const auto grid = grids_.fit(ends.low, ends.high);
        out.put((out_row + row) * n_groups + g, grid);
        grids_.codes(grid, to_round(row, begin, width, ends), width, out.codes.data() + (out_row + row) * in_ + begin);
        chose(best_[core::index(row)]);
      }
    }
  }

 private:
  /// A row's weights of a group as the grid between these ends gets them.
  const float* to_round(std::int64_t row, std::int64_t begin, std::int64_t width, const GroupEnds& ends) {
    const float* w = weight_.data() + row * in_ + begin;
    if constexpr (!Clips::kClamps) return w;
    std::transform(w, w + width, clamped_.begin(),
                   [&](float value) { return std::min(std::max(value, ends.low), ends.high); });
    return clamped_.data();
  }

  /// Of each row the clip whose error e costs least in e^T H e, H the group's own block; of equal ones the first.
  void search(std::int64_t begin, std::int64_t width) {
    for (std::int64_t row = 0; row < rows_; ++row) {
      const float* w = weight_.data() + row * in_ + begin;
      const auto [low, high] = std::minmax_element(w, w + width);
      ends_[core::index(row)] = {*low, *high};
    }
    std::fill(least_.begin(), least_.end(), std::numeric_limits<double>::infinity());
    std::fill(best_.begin(), best_.end(), 0);
    for (int clip = 0; clip < Clips::kCount; ++clip) {
      for (std::int64_t row = 0; row < rows_; ++row) {
        const float* w = weight_.data() + row * in_ + begin;
        float* error = error_.data() + row * width;
        const GroupEnds ends = Clips::ends(ends_[core::index(row)], clip);
        grids_.values(grids_.fit(ends.low, ends.high), to_round(row, begin, width, ends), width, error);
        for (std::int64_t c = 0; c < width; ++c) error[c] = w[c] - error[c];
        for (std::int64_t c = 0; c < width && !column_scale_.empty(); ++c)
          error[c] *= column_scale_[core::index(begin + c)];
      }
      kernels::cpu().linalg.gemm_f32(exec_, false, false, rows_, width, width, 1.0F, error_.data(), width,
                                     h_ + begin * in_ + begin, in_, 0.0F, product_.data(), width);
      for (std::int64_t row = 0; row < rows_; ++row) {
        const double cost = clip_cost(error_.data() + row * width, product_.data() + row * width, width);
        if (!(cost < least_[core::index(row)])) continue;
        least_[core::index(row)] = cost;
        best_[core::index(row)] = clip;
      }
    }
  }

  const kernels::Exec& exec_;
  const float* h_;
  const Grids& grids_;
  std::span<const float> column_scale_;
  std::vector<float> weight_;
  std::int64_t in_, group_size_, rows_;
  std::vector<GroupEnds> ends_;
  std::vector<int> best_;
  std::vector<double> least_;
  std::vector<float> error_, product_, clamped_;
};

/// Codes of this member's rows, and how often all members together chose each clip. Collective. Runs on the host
/// whatever the device is.
template <class Clips, class Grids>
std::pair<typename Grids::Codes, std::vector<std::int64_t>> clipped_codes(backend::Context& context, core::Team& team,
                                                                          const QuantInput& input,
                                                                          std::int64_t group_size, const Grids& grids,
                                                                          std::span<const float> column_scale) {
  const RowRange range = team_rows(team, input.out_features);
  const std::int64_t rows = range.end - range.begin;
  typename Grids::Codes codes(rows, input.in_features, group_size);
  using Counts = std::array<std::int64_t, Clips::kCount>;
  std::vector<Counts> chosen(core::index(core::ceil_div(rows, kRowTile)));
  {
    const kernels::Exec host{&context.pool(), nullptr};
    const backend::HostView<float> h(context, input.hessian->h.data(), input.hessian->h.size());
    for_tiles(context.pool(), rows, [&](std::int64_t row, std::int64_t n) {
      Counts& counts = chosen[core::index(row / kRowTile)];
      ClipTile<Grids, Clips>(host, input, h.values().data(), grids, column_scale, group_size, range.begin + row, n)
          .run(row, codes, [&](int clip) { ++counts[core::index(clip)]; });
    });
  }
  std::vector<std::int64_t> mine(core::index(Clips::kCount)), all(mine.size()), theirs;
  for (const Counts& counts : chosen)
    for (std::size_t clip = 0; clip < mine.size(); ++clip) mine[clip] += counts[clip];
  std::vector<std::byte> bytes;
  core::append_bytes<std::int64_t>(mine, bytes);
  for (const std::vector<std::byte>& part : team.all_gather(bytes)) {
    std::span<const std::byte> rest = part;
    theirs.clear();
    core::take_values(rest, all.size(), theirs);
    for (std::size_t clip = 0; clip < all.size(); ++clip) all[clip] += theirs[clip];
  }
  return {std::move(codes), std::move(all)};
}

/// Of clipped_codes, with this many clips.
inline Work clip_work(std::int64_t out_features, std::int64_t in_features, std::int64_t group_size, int n_clips) {
  constexpr double kRoundingBytes = 4;  // of memory traffic in whose time a weight is rounded to a grid
  Work work = product_work(out_features, in_features,
                           n_clips * static_cast<double>(group_size) / static_cast<double>(in_features));
  work.bytes += kRoundingBytes * n_clips * static_cast<double>(out_features) * static_cast<double>(in_features);
  return work;
}

/// Bytes of the tiles that a rank's threads work at.
inline std::int64_t clip_tile_bytes(const OperatorOnRank& r, std::int64_t group_size) {
  const std::int64_t tiles = std::min<std::int64_t>(r.n_threads, core::ceil_div(r.out_features, kRowTile));
  return 4 * kRowTile * (r.in_features + 2 * group_size) * tiles;
}

}  // namespace voronoi::quant
