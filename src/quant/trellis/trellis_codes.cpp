#include "quant/trellis/trellis_codes.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "backend/tensor.h"
#include "core/bytes.h"
#include "core/error.h"
#include "core/index.h"
#include "core/work_counts.h"

namespace voronoi::quant {

using core::index;

namespace {

constexpr std::int64_t kTrellisBatch = 128;  // columns whose errors are spread at once over the rest

/// The search of the tiles of one column, wherever the device is.
class ColumnSearch {
 public:
  ColumnSearch(backend::Context& context, const TrellisSettings& settings, const TrellisPart& part)
      : context_(context), part_(part), n_(part.begin.back()) {
    search_.bits = settings.bits;
    search_.state_bits = settings.state_bits;
    search_.code = settings.code;
    if (context.on_host() || n_ == 0) return;
    target_ = backend::Array<float>(context, n_);
    value_ = backend::Array<float>(context, n_);
    symbols_ = backend::Array<std::uint8_t>(context, n_);
  }

  /// As TrellisKernels::search, on the host. Arrays of whole units.
  void run(bool keep_seam, bool from_middle, const float* target, std::uint8_t* symbols, float* value) {
    if (n_ == 0) return;
    search_.keep_seam = keep_seam;
    search_.from_middle = from_middle;
    count_states(keep_seam);
    const auto& search = context_.trellis().search;
    if (context_.on_host())
      return search(context_.exec(), search_, part_.n_tiles, part_.begin.data(), part_.n_rows, target, symbols, value);
    const auto& memory = context_.memory();
    memory.copy_from_host(context_.exec(), target, 4 * n_, target_.data());
    if (keep_seam) memory.copy_from_host(context_.exec(), symbols, n_, symbols_.data());
    search(context_.exec(), search_, part_.n_tiles, part_.begin.data(), part_.n_rows, target_.data(), symbols_.data(),
           value_.data());
    memory.copy_to_host(context_.exec(), symbols_.data(), n_, symbols);
    memory.copy_to_host(context_.exec(), value_.data(), 4 * n_, value);
  }

 private:
  void count_states(bool keep_seam) const {
    std::int64_t weights = 0;
    for (std::size_t tile = 0; tile + 1 < part_.begin.size(); ++tile) {
      const std::int64_t n = part_.begin[tile + 1] - part_.begin[tile];
      weights += n + (keep_seam ? 0 : std::min(n, kLeadWeights));
    }
    core::count_work(core::Counted::nearest_flops,
                     kStateFlops * std::ldexp(static_cast<double>(weights), search_.state_bits));
  }

  backend::Context& context_;
  const TrellisPart& part_;
  std::int64_t n_;
  kernels::TrellisSearch search_;
  backend::Array<float> target_, value_;
  backend::Array<std::uint8_t> symbols_;
};

/// The rows of a member, transposed, in the Hessian's order of columns: [n, lanes], so that a column's rows are
/// contiguous; lanes past the last row hold zeros.
class TrellisLoop {
 public:
  TrellisLoop(backend::Context& context, core::Team& team, const PreparedHessian& hessian,
              const TrellisSettings& settings, const TrellisPart& part, std::span<const float> weight)
      : context_(context),
        team_(team),
        host_{&context.pool(), nullptr},
        hessian_(hessian),
        settings_(settings),
        part_(part),
        search_(context, settings, part),
        n_(hessian.n),
        lanes_(part.begin.back()),
        weight_(index(n_ * lanes_)),
        chosen_(weight_.size()),
        work_(weight_.size()),
        spread_(index(kTrellisBatch * lanes_)),
        symbols_(weight_.size()),
        target_(index(lanes_)),
        value_(index(lanes_)),
        found_(index(lanes_)) {
    for (std::int64_t row = 0; row < part.n_rows; ++row)
      for (std::int64_t c = 0; c < n_; ++c)
        weight_[index(c * lanes_ + row)] = weight[index(row * n_ + hessian.perm[index(c)])];
  }

  void feed_back() {
    const backend::HostView<float> factor(context_, hessian_.factor.data(), hessian_.factor.size());
    const float* upper = factor.values().data();
    work_ = weight_;
    for (std::int64_t begin = 0; begin < n_; begin += kTrellisBatch) {
      const std::int64_t end = std::min(n_, begin + kTrellisBatch);
      for (std::int64_t c = begin; c < end; ++c) {
        team_.check_stop();
        const float* wanted = at(work_, c);
        float *chosen = at(chosen_, c), *error = at(spread_, c - begin);
        search_.run(false, false, wanted, symbols_.data() + c * lanes_, chosen);
        for (std::int64_t lane = 0; lane < lanes_; ++lane)
          error[lane] = (wanted[lane] - chosen[lane]) / upper[c * (n_ + 1)];
        core::count_product(end - c - 1, lanes_, 1);
        for (std::int64_t later = c + 1; later < end; ++later) subtract(upper[c * n_ + later], error, at(work_, later));
      }
      subtract_product(upper, begin, end - begin, end, n_);
    }
  }

  /// Returns the errors before and behind, and how many sweeps are kept.
  void sweep(TrellisCodes& out) {
    make_metric();
    double held_out = held_out_error();
    find_gradient();
    out.error_before = out.error_behind = error();
    for (int sweep = 0; sweep < settings_.sweeps; ++sweep) {
      std::vector<float> chosen_before;
      std::vector<std::uint8_t> symbols_before;
      if (!held_out_.empty()) {
        chosen_before = chosen_;
        symbols_before = symbols_;
      }
      descend(sweep % 2 == 0);
      find_gradient();
      const double reached = error(), held_out_reached = held_out_error();
      if (!held_out_.empty() && !(held_out_reached < held_out)) {
        chosen_ = std::move(chosen_before);
        symbols_ = std::move(symbols_before);
        break;
      }
      const double gain = out.error_behind - reached;
      held_out = held_out_reached;
      out.error_behind = reached;
      out.sweeps_kept = sweep + 1;
      if (gain < kLeastSweepGain * reached) break;
    }
  }

  /// This member's, columns in the order of the model.
  std::vector<std::uint16_t> packed() const {
    std::vector<std::uint8_t> natural(symbols_.size());  // [lanes, n]
    for (std::int64_t c = 0; c < n_; ++c)
      for (std::int64_t lane = 0; lane < lanes_; ++lane)
        natural[index(lane * n_ + hessian_.perm[index(c)])] = symbols_[index(c * lanes_ + lane)];
    std::vector<std::uint16_t> codes(index(part_.n_units * n_ * settings_.bits));
    kernels::pack_trellis(settings_.bits, part_.n_units, n_, natural.data(), codes.data());
    return codes;
  }

 private:
  float* at(std::vector<float>& values, std::int64_t row) const { return values.data() + row * lanes_; }
  const float* at(const std::vector<float>& values, std::int64_t row) const { return values.data() + row * lanes_; }

  void subtract(float by, const float* from, float* target) const {
    for (std::int64_t lane = 0; lane < lanes_; ++lane) target[lane] -= by * from[lane];
  }

  /// work_[begin, end) -= (rows [first, first + count) of matrix [n, n])^T spread_. The host's gemm whatever the device
  /// is.
  void subtract_product(const float* matrix, std::int64_t first, std::int64_t count, std::int64_t begin,
                        std::int64_t end) {
    if (begin >= end || lanes_ == 0) return;
    core::count_product(end - begin, lanes_, count);
    kernels::cpu().linalg.gemm_f32(host_, true, false, end - begin, lanes_, count, -1.0F, matrix + first * n_ + begin,
                                   n_, spread_.data(), lanes_, 1.0F, at(work_, begin), lanes_);
  }

  /// h_ and held_out_, in the Hessian's order of columns.
  void make_metric() {
    const backend::HostView<float> natural(context_, hessian_.h.data(), hessian_.h.size());
    h_.resize(index(n_ * n_));
    for (std::int64_t i = 0; i < n_; ++i)
      for (std::int64_t j = 0; j < n_; ++j)
        h_[index(i * n_ + j)] =
            natural.values()[index(std::int64_t{hessian_.perm[index(i)]} * n_ + std::int64_t{hessian_.perm[index(j)]})];
    for (std::int64_t i = 0; i < n_; ++i) h_[index(i * (n_ + 1))] += static_cast<float>(hessian_.added);
    if (!hessian_.held_out.empty()) held_out_ = hessian_.held_out.to_host();
  }

  /// image = matrix (W - What)^T.
  void multiply_error(const std::vector<float>& matrix, std::vector<float>& image) {
    if (lanes_ == 0) return;
    core::count_product(n_, lanes_, n_);
    std::vector<float> difference(weight_.size());
    for (std::size_t i = 0; i < difference.size(); ++i) difference[i] = weight_[i] - chosen_[i];
    for (std::int64_t c = 0; c < n_; ++c)  // what fills up the last unit
      std::fill(at(difference, c) + part_.n_rows, at(difference, c) + lanes_, 0.0F);
    kernels::cpu().linalg.gemm_f32(host_, false, false, n_, lanes_, n_, 1.0F, matrix.data(), n_, difference.data(),
                                   lanes_, 0.0F, image.data(), lanes_);
  }

  void find_gradient() { multiply_error(h_, work_); }

  /// Of all members' rows, for an image of their errors in some metric.
  double total(const std::vector<float>& image) {
    std::vector<double> sums(index(part_.n_tiles));
    for (std::int64_t c = 0; c < n_; ++c)
      for (std::int64_t tile = 0; tile < part_.n_tiles; ++tile)
        for (std::int64_t lane = part_.begin[index(tile)]; lane < valid_end(tile); ++lane) {
          const std::size_t place = index(c * lanes_ + lane);
          sums[index(tile)] += static_cast<double>(weight_[place] - chosen_[place]) * static_cast<double>(image[place]);
        }
    std::vector<std::byte> mine;
    core::append_bytes<double>(sums, mine);
    double sum = 0;
    for (const std::vector<std::byte>& part : team_.all_gather(mine))
      for (const double value : core::values_of<double>(part)) sum += value;
    return sum;
  }
  double error() { return total(work_); }
  double held_out_error() {
    if (held_out_.empty()) return 0;
    std::vector<float> image(work_.size());
    multiply_error(held_out_, image);
    return total(image);
  }

  std::int64_t valid_end(std::int64_t tile) const {
    return std::min<std::int64_t>(part_.begin[index(tile + 1)], part_.n_rows);
  }

  /// One sweep, from the last column; work_ is the gradient all along.
  void descend(bool from_middle) {
    for (std::int64_t begin = (n_ - 1) / kTrellisBatch * kTrellisBatch; begin >= 0; begin -= kTrellisBatch) {
      const std::int64_t end = std::min(n_, begin + kTrellisBatch);
      for (std::int64_t c = end - 1; c >= begin; --c) {
        team_.check_stop();
        const float* own = h_.data() + c * n_;
        const float *gradient = at(work_, c), *chosen = at(chosen_, c);
        for (std::int64_t lane = 0; lane < lanes_; ++lane)
          target_[index(lane)] = own[c] > 0 ? chosen[lane] + gradient[lane] / own[c] : chosen[lane];
        std::copy_n(symbols_.data() + c * lanes_, lanes_, found_.data());
        search_.run(true, from_middle, target_.data(), found_.data(), value_.data());
        float* step = at(spread_, c - begin);
        take_steps(c, own[c], step);
        core::count_product(end - begin, lanes_, 1);
        for (std::int64_t other = begin; other < end; ++other) subtract(own[other], step, at(work_, other));
      }
      subtract_product(h_.data(), begin, end - begin, 0, begin);
      subtract_product(h_.data(), begin, end - begin, end, n_);
    }
  }

  /// The strings found take the place of those chosen before where the error falls: by d (diagonal d - 2 gradient) for
  /// a step d of a weight. step [lanes]: by how much What changes.
  void take_steps(std::int64_t c, float diagonal, float* step) {
    const float* gradient = at(work_, c);
    float* chosen = at(chosen_, c);
    for (std::int64_t tile = 0; tile < part_.n_tiles; ++tile) {
      const std::int64_t first = part_.begin[index(tile)], last = part_.begin[index(tile + 1)];
      double change = 0;
      for (std::int64_t lane = first; lane < valid_end(tile); ++lane) {
        const auto d = static_cast<double>(value_[index(lane)] - chosen[lane]);
        change += d * (static_cast<double>(diagonal) * d - 2 * static_cast<double>(gradient[lane]));
      }
      const bool falls = change < 0;
      for (std::int64_t lane = first; lane < last; ++lane) {
        step[lane] = falls ? value_[index(lane)] - chosen[lane] : 0;
        if (!falls) continue;
        chosen[lane] = value_[index(lane)];
        symbols_[index(c * lanes_ + lane)] = found_[index(lane)];
      }
    }
  }

  backend::Context& context_;
  core::Team& team_;
  const kernels::Exec host_;
  const PreparedHessian& hessian_;
  const TrellisSettings& settings_;
  const TrellisPart& part_;
  ColumnSearch search_;
  std::int64_t n_, lanes_;
  std::vector<float> weight_, chosen_;  ///< [n, lanes]: W and What
  std::vector<float> work_;             ///< the same: targets of the feedback, then the gradient
  std::vector<float> spread_;           ///< [kTrellisBatch, lanes]: errors, then steps
  std::vector<std::uint8_t> symbols_;   ///< [n, lanes]
  std::vector<float> target_, value_;   ///< [lanes]
  std::vector<std::uint8_t> found_;     ///< [lanes]
  std::vector<float> h_, held_out_;     ///< [n, n]
};

}  // namespace

TrellisPart::TrellisPart(std::int64_t out_features, int rank, int size) {
  const std::int64_t units = kernels::trellis_units(out_features), tiles = kernels::trellis_tiles(units);
  first_tile = tiles * rank / size;
  n_tiles = tiles * (rank + 1) / size - first_tile;
  first_unit = kernels::first_unit(units, first_tile);
  n_units = kernels::first_unit(units, first_tile + n_tiles) - first_unit;
  first_row = std::min(out_features, first_unit * kernels::kTrellisUnit);
  n_rows = std::min(out_features, (first_unit + n_units) * kernels::kTrellisUnit) - first_row;
  for (std::int64_t tile = 0; tile <= n_tiles; ++tile)
    begin.push_back(static_cast<std::int32_t>((kernels::first_unit(units, first_tile + tile) - first_unit) *
                                              kernels::kTrellisUnit));
}

TrellisCodes trellis_codes(backend::Context& context, core::Team& team, const PreparedHessian& hessian,
                           const TrellisSettings& settings, const TrellisPart& part, std::span<const float> weight) {
  VORONOI_REQUIRE(std::ssize(weight) == part.n_rows * hessian.n, "the weight is [rows of the member, n]");
  TrellisCodes out;
  std::vector<std::byte> mine;
  {
    TrellisLoop loop(context, team, hessian, settings, part, weight);
    loop.feed_back();
    if (settings.sweeps > 0) loop.sweep(out);
    core::append_bytes<std::uint16_t>(loop.packed(), mine);
  }
  for (const std::vector<std::byte>& theirs : team.all_gather(mine)) core::append_values(theirs, out.codes);
  return out;
}

}  // namespace voronoi::quant
