#include "quant/baselines/gptq.h"

#include <fmt/format.h>

#include <algorithm>
#include <vector>

#include "core/error.h"
#include "core/index.h"
#include "quant/baselines/uniform_method.h"

namespace voronoi::quant {

using core::index;

namespace {

constexpr std::int64_t kColumnBlock = 128;  // columns whose errors are spread at once over the rest

/// One tile of rows, transposed: w [in, rows] in processing order, so that a column's rows are contiguous. Tiles are
/// independent.
class GptqTile {
 public:
  GptqTile(const kernels::Exec& exec, const QuantInput& input, const float* factor, const GptqSettings& settings,
           std::int64_t first_row, std::int64_t rows)
      : exec_(exec),
        input_(input),
        factor_(factor),
        settings_(settings),
        in_(input.in_features),
        rows_(rows),
        n_groups_(core::ceil_div(in_, settings.group_size)),
        first_row_(first_row),
        max_code_(static_cast<float>((1 << settings.bits) - 1)),
        w_(index(in_ * rows)),
        error_(index(kColumnBlock * rows)),
        grids_(index(n_groups_ * rows)) {
    for (std::int64_t row = 0; row < rows_; ++row)
      for (std::int64_t column = 0; column < in_; ++column)
        w_[index(column * rows_ + row)] = weights(row)[input.hessian->perm[index(column)]];
  }

  /// Writes this tile's part of `out`, whose rows start at out_row.
  void run(std::int64_t out_row, UniformCodes& out) {
    if (settings_.group_grid == GroupGrid::fixed) fix_grids();
    for (std::int64_t begin = 0; begin < in_; begin += kColumnBlock) {
      const std::int64_t end = std::min(in_, begin + kColumnBlock);
      // No column of the block is touched yet: all groups that begin in it take their grids now.
      if (settings_.group_grid == GroupGrid::original) open_groups(begin, end);
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
      for (std::int64_t group = 0; group < n_groups_; ++group) {
        const UniformGrid& grid = grids_[index(group * rows_ + row)];
        out.scale[index((out_row + row) * n_groups_ + group)] = grid.scale;
        out.zeros[index((out_row + row) * n_groups_ + group)] = static_cast<std::uint16_t>(grid.zero);
      }
  }

 private:
  const float* weights(std::int64_t row) const { return input_.weight.data() + (first_row_ + row) * in_; }

  void subtract(float factor, const float* error, float* target) const {
    for (std::int64_t row = 0; row < rows_; ++row) target[row] -= factor * error[row];
  }

  void fix_grids() {
    for (std::int64_t row = 0; row < rows_; ++row)
      for (std::int64_t group = 0; group < n_groups_; ++group) {
        const float* begin = weights(row) + group * settings_.group_size;
        const float* end = weights(row) + std::min(in_, (group + 1) * settings_.group_size);
        const auto [low, high] = std::minmax_element(begin, end);
        grids_[index(group * rows_ + row)] = UniformGrid::fit(*low, *high, max_code_, settings_.scale_dtype);
      }
  }

  /// Grids of the groups whose first column is one of [begin, end).
  void open_groups(std::int64_t begin, std::int64_t end) {
    for (std::int64_t group = core::ceil_div(begin, settings_.group_size); group * settings_.group_size < end;
         ++group) {
      const std::int64_t first = group * settings_.group_size, last = std::min(in_, first + settings_.group_size);
      for (std::int64_t row = 0; row < rows_; ++row) {
        float low = w_[index(first * rows_ + row)], high = low;
        for (std::int64_t column = first + 1; column < last; ++column) {
          low = std::min(low, w_[index(column * rows_ + row)]);
          high = std::max(high, w_[index(column * rows_ + row)]);
        }
        grids_[index(group * rows_ + row)] = UniformGrid::fit(low, high, max_code_, settings_.scale_dtype);
      }
    }
  }

  void quantize_column(std::int64_t column, float diagonal, float* error, std::int64_t out_row,
                       UniformCodes& out) const {
    const std::int64_t place = settings_.group_grid == GroupGrid::fixed ? input_.hessian->perm[index(column)] : column;
    const UniformGrid* grids = grids_.data() + place / settings_.group_size * rows_;
    const float* values = w_.data() + column * rows_;
    for (std::int64_t row = 0; row < rows_; ++row) {
      const float code = grids[row].code(values[row], max_code_);
      error[row] = (values[row] - grids[row].value(code)) / diagonal;
      out.codes[index((out_row + row) * in_ + place)] = static_cast<std::uint16_t>(code);
    }
  }

  const kernels::Exec& exec_;
  const QuantInput& input_;
  const float* factor_;
  const GptqSettings& settings_;
  std::int64_t in_, rows_, n_groups_, first_row_;
  float max_code_;
  std::vector<float> w_, error_;
  std::vector<UniformGrid> grids_;  // [n_groups, rows]
};

constexpr std::int64_t kMaxGptqPerm = 65535;

class Gptq final : public UniformMethod {
 public:
  std::string_view name() const override { return "gptq"; }
  std::string_view summary() const override {
    return "column by column, each column's error spread over those to come";
  }
  const std::vector<Parameter>& parameters() const override {
    static const std::vector<Parameter> all = [this] {
      std::vector<Parameter> declared = UniformMethod::parameters();
      declared.push_back(choice_parameter("group-grid",
                                          "static: grids of neighbouring columns, found before the loop; original: of "
                                          "columns that follow each other in the loop, found at the start of a block",
                                          &GptqParameters::group_grid, {"static", "original"}));
      return declared;
    }();
    return all;
  }
  std::string setting(const QuantParameters& parameters) const override {
    return UniformMethod::setting(parameters) +
           (grid_rule(parameters) == GroupGrid::original ? ", the original's grids" : "");
  }
  void check_shape(const QuantParameters& parameters, std::int64_t /*out_features*/, std::int64_t in_features,
                   Problems& problems) const override {
    if (stores_order(parameters) && in_features > kMaxGptqPerm)
      problems.push_back(
          fmt::format("a layer of {} columns is past the {} whose order can be stored; use --group-grid static or "
                      "--act-order false",
                      in_features, kMaxGptqPerm));
  }
  void consider_memory(const QuantParameters& parameters, const OperatorOnRank& r,
                       core::MemoryPeak& peak) const override {
    const std::int64_t tiles = std::min<std::int64_t>(r.n_threads, core::ceil_div(r.out_features, kRowTile));
    const std::int64_t groups = core::ceil_div(
        r.in_features, effective_group_size(parameters.get<UniformParameters>().group_size, r.in_features));
    peak.consider(
        r.held_bytes + code_bytes(parameters, r) +
            kRowTile * (4 * (r.in_features + kColumnBlock) + static_cast<std::int64_t>(sizeof(UniformGrid)) * groups) *
                tiles,
        "column loop of " + r.name);
    UniformMethod::consider_memory(parameters, r, peak);
  }
  QuantResult quantize(backend::Context& context, core::Team& team, const QuantInput& input,
                       const QuantParameters& parameters) const override {
    check_input(input);
    const auto& p = parameters.get<UniformParameters>();
    const GptqSettings settings{p.bits, effective_group_size(p.group_size, input.in_features), grid_rule(parameters),
                                input.stored_dtype};
    const UniformCodes codes = gptq_codes(context, input, team_rows(team, input.out_features), settings);
    const auto& perm = input.hessian->perm;
    std::vector<std::uint16_t> stored_perm;
    if (settings.group_grid == GroupGrid::original && !std::is_sorted(perm.begin(), perm.end())) {
      VORONOI_REQUIRE(input.in_features <= 65536,
                      input.name + ": a permutation of more than 65536 columns cannot be stored");
      stored_perm.assign(perm.begin(), perm.end());
    }
    QuantResult result;
    result.encoding =
        format::to_encoding(gather_encoding(team, input, settings.bits, settings.group_size, stored_perm, codes));
    result.relative_error = encoding_error(context, input, result.encoding);
    result.statistics["damping"] = input.hessian->damping;
    result.statistics["damping_steps"] = input.hessian->damping_steps;
    result.statistics["dead_columns"] = static_cast<double>(input.hessian->dead_columns);
    return result;
  }

 protected:
  double products() const override { return 2.5; }
  bool stores_order(const QuantParameters& parameters) const override {
    return parameters.act_order && grid_rule(parameters) == GroupGrid::original;
  }

 private:
  static GroupGrid grid_rule(const QuantParameters& parameters) {
    return parameters.get<GptqParameters>().group_grid == "original" ? GroupGrid::original : GroupGrid::fixed;
  }
};

}  // namespace

UniformCodes gptq_codes(backend::Context& context, const QuantInput& input, const RowRange& range,
                        const GptqSettings& settings) {
  VORONOI_REQUIRE(range.begin % kRowTile == 0, "rows of a team member start at a tile");
  const std::int64_t rows = range.end - range.begin;
  UniformCodes codes(rows, input.in_features, settings.group_size);
  const kernels::Exec host{&context.pool(), nullptr};
  const backend::HostView<float> factor(context, input.hessian->factor.data(), input.hessian->factor.size());
  context.pool().parallel_for(core::ceil_div(rows, kRowTile), [&](std::int64_t tile) {
    const std::int64_t row = tile * kRowTile;
    GptqTile(host, input, factor.values().data(), settings, range.begin + row, std::min(kRowTile, rows - row))
        .run(row, codes);
  });
  return codes;
}

const Method& gptq_method() {
  static const Gptq method;
  return method;
}

}  // namespace voronoi::quant
