#include "quant/quip/lattice_codes.h"

#include <algorithm>
#include <array>

#include "backend/device.h"
#include "core/error.h"
#include "core/index.h"
#include "core/types.h"
#include "core/work_counts.h"
#include "quant/baselines/uniform.h"

namespace voronoi::quant {

using core::index;

namespace {

namespace e8p = kernels::e8p;

static_assert(kLatticeDim == e8p::kDim);
constexpr std::int64_t kLatticeBatch = 16 * kLatticeDim;  // columns whose errors are spread at once over the rest

/// One tile of rows, transposed: [columns, lanes], so that a column's rows are contiguous; lanes past the last row hold
/// zeros. Tiles are independent.
class LatticeTile {
 public:
  LatticeTile(const kernels::Exec& exec, const LatticeMetric& metric, const LatticeSettings& settings,
              const float* weight, std::int64_t rows)
      : exec_(exec),
        metric_(metric),
        settings_(settings),
        n_(metric.n),
        n_blocks_(core::ceil_div(n_, kLatticeDim)),
        rows_(rows),
        lanes_(core::ceil_div(rows, kernels::kE8pLanes) * kernels::kE8pLanes),
        weight_(index(n_blocks_ * kLatticeDim * lanes_)),
        chosen_(weight_.size()),
        work_(weight_.size()),
        spread_(index(kLatticeBatch * lanes_)),
        target_(index(kLatticeDim * lanes_)),
        value_(target_.size()),
        rest_(target_.size()),
        step_(target_.size()),
        codes_(index(n_blocks_ * lanes_)),
        residual_(settings.bits > 2 ? codes_.size() : 0),
        code_(index(lanes_)),
        rest_code_(index(lanes_)) {
    for (std::int64_t row = 0; row < rows_; ++row)
      for (std::int64_t c = 0; c < n_; ++c) weight_[index(c * lanes_ + row)] = weight[row * n_ + c];
  }

  /// Writes this tile's part of `out`, whose rows start at out_row.
  void run(std::int64_t out_row, LatticeCodes& out) {
    feed_back();
    if (settings_.sweeps > 0) {
      find_gradient();
      take_errors(out.error_before.data() + out_row);
      for (int sweep = 0; sweep < settings_.sweeps; ++sweep)
        if (!descend()) break;
      find_gradient();
      take_errors(out.error_behind.data() + out_row);
    }
    for (std::int64_t row = 0; row < rows_; ++row)
      for (std::int64_t k = 0; k < n_blocks_; ++k) {
        const std::size_t at = index((out_row + row) * n_blocks_ + k), from = index(k * lanes_ + row);
        out.codes[at] = codes_[from];
        if (!residual_.empty()) out.residual[at] = residual_[from];
      }
  }

 private:
  std::int64_t dim_of(std::int64_t block) const { return std::min(kLatticeDim, n_ - block * kLatticeDim); }
  static float* at(std::vector<float>& values, std::int64_t place) { return values.data() + place; }

  /// value_, code_ and rest_code_: the nearest to x [dim, lanes].
  void search(const float* x, std::int64_t dim) {
    if (dim < kLatticeDim) return search_part(x, dim);
    kernels::nearest_e8p(lanes_, lanes_, x, value_.data(), code_.data());
    if (settings_.bits == 2) return;
    const bool by_e8 = settings_.bits == 3;
    const float scale = by_e8 ? e8p::kE8Residual : e8p::kE8pResidual, back = by_e8 ? e8p::kE8Step : e8p::kE8pStep;
    for (std::size_t i = 0; i < rest_.size(); ++i) rest_[i] = (x[i] - value_[i]) * scale;
    (by_e8 ? kernels::nearest_e8 : kernels::nearest_e8p)(lanes_, lanes_, rest_.data(), rest_.data(), rest_code_.data());
    for (std::size_t i = 0; i < rest_.size(); ++i) value_[i] += rest_[i] * back;
  }

  void search_part(const float* x, std::int64_t dim) {
    std::array<float, kLatticeDim> point{}, value;
    for (std::int64_t lane = 0; lane < rows_; ++lane) {
      for (std::int64_t i = 0; i < dim; ++i) point[index(i)] = x[i * lanes_ + lane];
      code_[index(lane)] = kernels::nearest_of_part(false, static_cast<int>(dim), point.data());
      if (settings_.bits > 2) {
        kernels::decode_e8p(code_[index(lane)], value.data());
        const float scale = settings_.bits == 3 ? e8p::kE8Residual : e8p::kE8pResidual;
        for (std::size_t i = 0; i < index(dim); ++i) point[i] = (point[i] - value[i]) * scale;
        rest_code_[index(lane)] = kernels::nearest_of_part(settings_.bits == 3, static_cast<int>(dim), point.data());
      }
      decode_lattice(settings_.bits, code_[index(lane)], rest_code_[index(lane)], value.data());
      for (std::int64_t i = 0; i < dim; ++i) value_[index(i * lanes_ + lane)] = value[index(i)];
    }
  }

  void feed_back() {
    std::copy(weight_.begin(), weight_.end(), work_.begin());
    for (std::int64_t begin = (n_ - 1) / kLatticeBatch * kLatticeBatch; begin >= 0; begin -= kLatticeBatch) {
      const std::int64_t end = std::min(n_, begin + kLatticeBatch);
      for (std::int64_t k = (end - 1) / kLatticeDim; k * kLatticeDim >= begin; --k) {
        const std::int64_t first = k * kLatticeDim, dim = dim_of(k);
        search(at(work_, first * lanes_), dim);
        std::copy_n(code_.begin(), lanes_, codes_.begin() + k * lanes_);
        if (!residual_.empty()) std::copy_n(rest_code_.begin(), lanes_, residual_.begin() + k * lanes_);
        float* chosen = at(chosen_, first * lanes_);
        float* error = at(spread_, (first - begin) * lanes_);
        const float* weight = at(weight_, first * lanes_);
        for (std::int64_t i = 0; i < dim * lanes_; ++i) {
          chosen[i] = value_[index(i)];
          error[i] = weight[i] - chosen[i];
        }
        add_product(metric_.feedback.data(), first, dim, begin, first, 1.0F, error);
      }
      add_product(metric_.feedback.data(), begin, end - begin, 0, begin, 1.0F, spread_.data());
    }
  }

  /// work_[begin, end) += by * (rows [first, first + count) of matrix [n, n])^T values [count, lanes]. The host's gemm
  /// whatever the device is.
  void add_product(const float* matrix, std::int64_t first, std::int64_t count, std::int64_t begin, std::int64_t end,
                   float by, const float* values) {
    if (begin >= end) return;
    core::count_product(end - begin, lanes_, count);
    kernels::cpu().linalg.gemm_f32(exec_, true, false, end - begin, lanes_, count, by, matrix + first * n_ + begin, n_,
                                   values, lanes_, 1.0F, at(work_, begin * lanes_), lanes_);
  }

  /// work_ = (H + damping I) (W - What)^T.
  void find_gradient() {
    std::vector<float> error(weight_.size());
    for (std::size_t i = 0; i < error.size(); ++i) error[i] = weight_[i] - chosen_[i];
    const auto damping = static_cast<float>(metric_.sweep_damping);
    for (std::size_t i = 0; i < error.size(); ++i) work_[i] = damping * error[i];
    add_product(metric_.h.data(), 0, n_, 0, n_, 1.0F, error.data());
  }

  void take_errors(double* errors) const {
    for (std::int64_t row = 0; row < rows_; ++row) {
      double sum = 0;
      for (std::int64_t c = 0; c < n_; ++c) {
        const std::size_t place = index(c * lanes_ + row);
        sum += static_cast<double>(weight_[place] - chosen_[place]) * static_cast<double>(work_[place]);
      }
      errors[row] = sum;
    }
  }

  /// One sweep; work_ is the gradient all along. Returns whether any code changed.
  bool descend() {
    bool changed = false;
    for (std::int64_t begin = (n_ - 1) / kLatticeBatch * kLatticeBatch; begin >= 0; begin -= kLatticeBatch) {
      const std::int64_t end = std::min(n_, begin + kLatticeBatch);
      bool batch_changed = false;
      for (std::int64_t k = (end - 1) / kLatticeDim; k * kLatticeDim >= begin; --k) {
        const std::int64_t first = k * kLatticeDim, dim = dim_of(k);
        find_target(k, dim);
        search(target_.data(), dim);
        float* step = at(spread_, (first - begin) * lanes_);
        if (!take_steps(k, dim, step)) continue;
        batch_changed = true;
        add_product(metric_.h.data(), first, dim, begin, end, -1.0F, step);
        float* gradient = at(work_, first * lanes_);
        const auto damping = static_cast<float>(metric_.sweep_damping);
        for (std::int64_t i = 0; i < dim * lanes_; ++i) gradient[i] -= damping * step[i];
      }
      if (!batch_changed) continue;
      changed = true;
      add_product(metric_.h.data(), begin, end - begin, 0, begin, -1.0F, spread_.data());
      add_product(metric_.h.data(), begin, end - begin, end, n_, -1.0F, spread_.data());
    }
    return changed;
  }

  /// target_ = What_k + gradient_k H_kk^-1.
  void find_target(std::int64_t k, std::int64_t dim) {
    const float* inverse = metric_.inverse.data() + k * kLatticeDim * kLatticeDim;
    const float* gradient = at(work_, k * kLatticeDim * lanes_);
    std::copy_n(chosen_.begin() + k * kLatticeDim * lanes_, dim * lanes_, target_.begin());
    for (std::int64_t i = 0; i < dim; ++i)
      for (std::int64_t j = 0; j < dim; ++j) {
        const float by = inverse[i * kLatticeDim + j];
        float* target = at(target_, i * lanes_);
        for (std::int64_t lane = 0; lane < lanes_; ++lane) target[lane] += by * gradient[j * lanes_ + lane];
      }
  }

  /// The codewords found take the place of those chosen before where the error falls: by d (H_kk d - 2 gradient_k) for
  /// a step d. step [dim, lanes]: by how much What changes.
  bool take_steps(std::int64_t k, std::int64_t dim, float* step) {
    const std::int64_t first = k * kLatticeDim;
    float* chosen = at(chosen_, first * lanes_);
    const float* gradient = at(work_, first * lanes_);
    for (std::int64_t i = 0; i < dim * lanes_; ++i) step[i] = value_[index(i)] - chosen[i];
    std::fill(target_.begin(), target_.begin() + lanes_, 0.0F);  // from here on the changes of the error
    for (std::int64_t i = 0; i < dim; ++i) {
      float* image = at(step_, i * lanes_);
      for (std::int64_t lane = 0; lane < lanes_; ++lane) image[lane] = -2 * gradient[i * lanes_ + lane];
      for (std::int64_t j = 0; j < dim; ++j) {
        const float by = metric_.h[index((first + i) * n_ + first + j)] +
                         (i == j ? static_cast<float>(metric_.sweep_damping) : 0.0F);
        for (std::int64_t lane = 0; lane < lanes_; ++lane) image[lane] += by * step[j * lanes_ + lane];
      }
      for (std::int64_t lane = 0; lane < lanes_; ++lane) target_[index(lane)] += image[lane] * step[i * lanes_ + lane];
    }
    bool changed = false;
    for (std::int64_t lane = 0; lane < lanes_; ++lane) {
      const bool falls = lane < rows_ && target_[index(lane)] < 0;
      for (std::int64_t i = 0; i < dim; ++i) {
        float& moved = step[i * lanes_ + lane];
        if (falls)
          chosen[i * lanes_ + lane] = value_[index(i * lanes_ + lane)];
        else
          moved = 0;
      }
      if (!falls) continue;
      changed = true;
      codes_[index(k * lanes_ + lane)] = code_[index(lane)];
      if (!residual_.empty()) residual_[index(k * lanes_ + lane)] = rest_code_[index(lane)];
    }
    return changed;
  }

  const kernels::Exec& exec_;
  const LatticeMetric& metric_;
  const LatticeSettings& settings_;
  std::int64_t n_, n_blocks_, rows_, lanes_;
  std::vector<float> weight_, chosen_;               ///< [8 * blocks, lanes]: W and What
  std::vector<float> work_;                          ///< the same: targets of the feedback, then the gradient
  std::vector<float> spread_;                        ///< [kLatticeBatch, lanes]: errors, then steps
  std::vector<float> target_, value_, rest_, step_;  ///< [8, lanes]
  std::vector<std::uint16_t> codes_, residual_;      ///< [blocks, lanes]
  std::vector<std::uint16_t> code_, rest_code_;      ///< [lanes]
};

}  // namespace

void decode_lattice(int bits, std::uint16_t code, std::uint16_t residual, float* values) {
  kernels::decode_e8p(code, values);
  if (bits == 2) return;
  std::array<float, kLatticeDim> rest;
  if (bits == 3)
    kernels::decode_e8(static_cast<std::uint8_t>(residual), rest.data());
  else
    kernels::decode_e8p(residual, rest.data());
  for (std::size_t i = 0; i < rest.size(); ++i) values[i] += rest[i] * (bits == 3 ? e8p::kE8Step : e8p::kE8pStep);
}

LatticeCodes lattice_codes(core::ThreadPool& pool, const LatticeMetric& metric, const LatticeSettings& settings,
                           std::int64_t rows, std::span<const float> weight) {
  VORONOI_REQUIRE(std::ssize(weight) == rows * metric.n, "the weight is [rows, n]");
  VORONOI_REQUIRE(settings.bits >= 2 && settings.bits <= 4, "lattice codes have 2 to 4 bits");
  const kernels::Exec host{&pool, nullptr};
  LatticeCodes out;
  out.codes.resize(index(rows * core::ceil_div(metric.n, kLatticeDim)));
  if (settings.bits > 2) out.residual.resize(out.codes.size());
  out.error_before.resize(index(rows));
  out.error_behind.resize(index(rows));
  pool.parallel_for(core::ceil_div(rows, kRowTile), [&](std::int64_t tile) {
    const std::int64_t row = tile * kRowTile;
    LatticeTile(host, metric, settings, weight.data() + row * metric.n, std::min(kRowTile, rows - row)).run(row, out);
  });
  return out;
}

}  // namespace voronoi::quant
