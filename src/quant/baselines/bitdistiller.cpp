#include "quant/baselines/bitdistiller.h"

#include <algorithm>
#include <array>
#include <limits>
#include <vector>

#include "core/bytes.h"
#include "core/error.h"
#include "core/index.h"
#include "quant/baselines/uniform.h"
#include "quant/baselines/uniform_method.h"

namespace voronoi::quant {

using core::index;

namespace {

/// Both ends of a grid, as numbers of clips.
struct Clip {
  int low = 0, high = 0;
};

/// What the search costs is fp32 products; their row sums are in fp64, in a fixed order that a compiler may still use
/// vectors for.
double dot(const float* a, const float* b, std::int64_t n) {
  constexpr std::int64_t kLanes = 8;
  std::array<double, kLanes> sums{};
  std::int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes)
    for (std::int64_t lane = 0; lane < kLanes; ++lane)
      sums[index(lane)] += static_cast<double>(a[i + lane]) * static_cast<double>(b[i + lane]);
  for (; i < n; ++i) sums[0] += static_cast<double>(a[i]) * static_cast<double>(b[i]);
  double sum = 0;
  for (const double part : sums) sum += part;
  return sum;
}

/// A tile of rows of one linear, group after group. Tiles are independent.
class ClipTile {
 public:
  /// h: [in, in], host memory.
  ClipTile(const kernels::Exec& exec, const QuantInput& input, const float* h, const UniformParameters& parameters,
           std::int64_t group_size, std::int64_t first_row, std::int64_t rows)
      : exec_(exec),
        h_(h),
        weight_(input.weight.data() + first_row * input.in_features),
        dtype_(input.stored_dtype),
        in_(input.in_features),
        group_size_(group_size),
        rows_(rows),
        max_code_(static_cast<float>((1 << parameters.bits) - 1)),
        ends_(index(rows)),
        best_(index(rows)),
        least_(index(rows)),
        error_(index(rows * group_size)),
        product_(index(rows * group_size)) {}

  /// Writes this tile's part of `out`, whose rows start at out_row. Adds the clips it chose to `chosen`.
  void run(std::int64_t out_row, UniformCodes& out, std::array<std::int64_t, 2>& chosen) {
    const std::int64_t n_groups = core::ceil_div(in_, group_size_);
    for (std::int64_t g = 0; g < n_groups; ++g) {
      const std::int64_t begin = g * group_size_, end = std::min(in_, begin + group_size_);
      search(begin, end - begin);
      for (std::int64_t row = 0; row < rows_; ++row) {
        const UniformGrid grid = grid_of(row, best_[index(row)]);
        const std::int64_t at = (out_row + row) * n_groups + g;
        out.scale[index(at)] = grid.scale;
        out.zeros[index(at)] = static_cast<std::uint16_t>(grid.zero);
        for (std::int64_t c = begin; c < end; ++c)
          out.codes[index((out_row + row) * in_ + c)] =
              static_cast<std::uint16_t>(grid.code(weight_[row * in_ + c], max_code_));
        chosen[0] += best_[index(row)].low;
        chosen[1] += best_[index(row)].high;
      }
    }
  }

 private:
  struct Ends {
    float low = 0, high = 0;
  };

  UniformGrid grid_of(std::int64_t row, Clip clip) const {
    const Ends& ends = ends_[index(row)];
    return UniformGrid::fit(ends.low * clip_factor(clip.low), ends.high * clip_factor(clip.high), max_code_, dtype_);
  }

  /// Of each row the clip whose error e costs least in e^T H e, H the group's own block; of equal ones the widest.
  void search(std::int64_t begin, std::int64_t width) {
    for (std::int64_t row = 0; row < rows_; ++row) {
      const float* w = weight_ + row * in_ + begin;
      const auto [low, high] = std::minmax_element(w, w + width);
      ends_[index(row)] = {*low, *high};
    }
    std::fill(least_.begin(), least_.end(), std::numeric_limits<double>::infinity());
    std::fill(best_.begin(), best_.end(), Clip{});
    for (Clip clip; clip.high < kClips; ++clip.high)
      for (clip.low = 0; clip.low < kClips; ++clip.low) {
        for (std::int64_t row = 0; row < rows_; ++row) {
          const float* w = weight_ + row * in_ + begin;
          const UniformGrid grid = grid_of(row, clip);
          float* error = error_.data() + row * width;
          for (std::int64_t c = 0; c < width; ++c) error[c] = w[c] - grid.value(grid.code(w[c], max_code_));
        }
        kernels::cpu().linalg.gemm_f32(exec_, false, false, rows_, width, width, 1.0F, error_.data(), width,
                                       h_ + begin * in_ + begin, in_, 0.0F, product_.data(), width);
        for (std::int64_t row = 0; row < rows_; ++row) {
          const double cost = dot(error_.data() + row * width, product_.data() + row * width, width);
          if (!(cost < least_[index(row)])) continue;
          least_[index(row)] = cost;
          best_[index(row)] = clip;
        }
      }
  }

  const kernels::Exec& exec_;
  const float* h_;
  const float* weight_;
  core::DType dtype_;
  std::int64_t in_, group_size_, rows_;
  float max_code_;
  std::vector<Ends> ends_;
  std::vector<Clip> best_;
  std::vector<double> least_;
  std::vector<float> error_, product_;
};

class BitDistiller final : public UniformMethod {
 public:
  std::string_view name() const override { return "bitdistiller"; }
  std::string_view summary() const override { return "rtn with both ends of each group's grid clipped as H asks for"; }
  OperatorWork work(const QuantParameters& parameters, std::int64_t out_features,
                    std::int64_t in_features) const override {
    OperatorWork work = UniformMethod::work(parameters, out_features, in_features);
    const std::int64_t group = effective_group_size(parameters.get<UniformParameters>().group_size, in_features);
    work.column_loop += product_work(out_features, in_features,
                                     kClips * kClips * static_cast<double>(group) / static_cast<double>(in_features));
    // Rounding to every grid.
    work.column_loop.bytes +=
        kRoundingBytes * kClips * kClips * static_cast<double>(out_features) * static_cast<double>(in_features);
    return work;
  }
  void consider_memory(const QuantParameters& parameters, const OperatorOnRank& r,
                       core::MemoryPeak& peak) const override {
    const std::int64_t group = effective_group_size(parameters.get<UniformParameters>().group_size, r.in_features);
    const std::int64_t tiles = std::min<std::int64_t>(r.n_threads, core::ceil_div(r.out_features, kRowTile));
    peak.consider(r.held_bytes + code_bytes(parameters, r) + 4 * kRowTile * 2 * group * tiles, "clips of " + r.name);
    UniformMethod::consider_memory(parameters, r, peak);
  }
  QuantResult quantize(backend::Context& context, core::Team& team, const QuantInput& input,
                       const QuantParameters& parameters) const override {
    check_input(input);
    const auto& p = parameters.get<UniformParameters>();
    const std::int64_t in = input.in_features, group_size = effective_group_size(p.group_size, in);
    const std::int64_t n_groups = core::ceil_div(in, group_size);
    const RowRange range = team_rows(team, input.out_features);
    const std::int64_t rows = range.end - range.begin, n_tiles = core::ceil_div(rows, kRowTile);
    UniformCodes codes(rows, in, group_size);
    std::vector<std::array<std::int64_t, 2>> chosen(index(n_tiles));
    {
      const kernels::Exec host{&context.pool(), nullptr};
      const backend::HostView<float> h(context, input.hessian->h.data(), input.hessian->h.size());
      context.pool().parallel_for(n_tiles, [&](std::int64_t tile) {
        const std::int64_t row = tile * kRowTile;
        ClipTile(host, input, h.values().data(), p, group_size, range.begin + row, std::min(kRowTile, rows - row))
            .run(row, codes, chosen[index(tile)]);
      });
    }
    QuantResult result;
    result.encoding = format::to_encoding(gather_encoding(team, input, p.bits, group_size, {}, codes));
    result.relative_error = encoding_error(context, input, result.encoding);
    add_mean_factors(team, chosen, static_cast<double>(input.out_features * n_groups), result);
    return result;
  }

 protected:
  double products() const override { return 2; }
  bool stores_order(const QuantParameters& /*parameters*/) const override { return false; }

 private:
  /// Of memory traffic in whose time a weight is rounded to a grid.
  static constexpr double kRoundingBytes = 4;

  /// Mean of the factors of all groups, at both ends.
  static void add_mean_factors(core::Team& team, const std::vector<std::array<std::int64_t, 2>>& mine, double n_grids,
                               QuantResult& result) {
    std::vector<std::int64_t> sums(2), all;
    for (const auto& tile : mine)
      for (std::size_t end = 0; end < 2; ++end) sums[end] += tile[end];
    std::vector<std::byte> bytes;
    core::append_bytes<std::int64_t>(sums, bytes);
    std::array<double, 2> totals{};
    for (const std::vector<std::byte>& part : team.all_gather(bytes)) {
      std::span<const std::byte> rest = part;
      all.clear();
      core::take_values(rest, 2, all);
      for (std::size_t end = 0; end < 2; ++end) totals[end] += static_cast<double>(all[end]);
    }
    result.statistics["clip_low"] = 1 - totals[0] / n_grids / 20;
    result.statistics["clip_high"] = 1 - totals[1] / n_grids / 20;
  }
};

}  // namespace

const Method& bitdistiller_method() {
  static const BitDistiller method;
  return method;
}

}  // namespace voronoi::quant
