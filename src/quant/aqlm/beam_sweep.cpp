#include "quant/aqlm/beam_sweep.h"

#include <algorithm>
#include <limits>
#include <vector>

#include "backend/device.h"
#include "core/index.h"
#include "core/work_counts.h"

namespace voronoi::quant {

using core::index;

namespace {

constexpr std::int64_t kTileStates = 128;   // rows, or what a beam keeps of them, that are taken together
constexpr std::int64_t kBlockColumns = 64;  // columns whose changes reach the rest at once

/// What all tiles read.
struct SweepShared {
  SweepShared(const AdditiveRows& rows, std::span<const float> metric, std::span<const std::int32_t> group_order)
      : e(rows.extents()), n(e.in_features), g(e.in_group), k(e.centroids()), order(group_order) {
    hessian.resize(index(n * n));
    const auto natural = [&](std::int64_t c) { return static_cast<std::int64_t>(order[index(c / g)]) * g + c % g; };
    rows.pool().parallel_for(n, [&](std::int64_t r) {
      const float* from = metric.data() + natural(r) * n;
      for (std::int64_t c = 0; c < n; ++c) hessian[index(r * n + c)] = from[natural(c)];
    });
    by_column.resize(index(e.codebooks * (g + 1) * k));
    for (std::int64_t m = 0; m < e.codebooks; ++m)
      for (std::int64_t code = 0; code < k; ++code)
        for (std::int64_t i = 0; i < g; ++i)
          by_column[index((m * (g + 1) + i) * k + code)] = rows.numbers.books[index((m * k + code) * g + i)];
  }
  const float* block(std::int64_t row, std::int64_t column) const { return hessian.data() + row * n + column; }

  const format::AqlmExtents& e;
  std::int64_t n, g, k;
  std::span<const std::int32_t> order;
  std::vector<float> hessian;    // [n, n] in the order of the sweep
  std::vector<float> by_column;  // [M, g + 1, k]: centroids by column, and room for half their norms
};

/// Some rows on their way through a sweep. A state is what is kept of a row; those of a row stand side by side, the
/// best first. Columns are in the order of the sweep, states run along each: place c * stride + state.
class SweepTile {
 public:
  SweepTile(const SweepShared& shared, AdditiveRows& rows, std::int64_t first, std::int64_t n_rows, int beam)
      : s_(shared),
        rows_(rows),
        first_(first),
        n_rows_(n_rows),
        beam_(beam),
        n_states_(n_rows * beam),
        stride_(kernels::host_lanes(n_states_)),
        books_(shared.by_column),
        product_(index(s_.n * stride_)),
        change_(index(block_columns() * stride_)),
        own_(index(s_.g * stride_)),
        points_(index(s_.g * stride_)),
        old_(index(s_.g * stride_)),
        inverse_(index(stride_)),
        scale_(index(stride_)),
        choice_(index(stride_)),
        loss_(index(n_states_), 0.0),
        codes_(index(n_states_ * codes_of_row())) {
    for (std::int64_t row = 0; row < n_rows; ++row) {
      const float scale = rows.numbers.scale[index(first + row)];
      const float* from = rows.product().data() + (first + row) * s_.n;
      const std::uint16_t* codes = rows.numbers.codes.data() + (first + row) * codes_of_row();
      for (std::int64_t state = row * beam; state < (row + 1) * beam; ++state) {
        scale_[index(state)] = scale;
        inverse_[index(state)] = scale != 0 ? 1 / scale : 0;
        std::copy_n(codes, codes_of_row(), codes_.begin() + state * codes_of_row());
        for (std::int64_t c = 0; c < s_.n; ++c)
          product_[index(c * stride_ + state)] =
              from[static_cast<std::int64_t>(s_.order[index(c / s_.g)]) * s_.g + c % s_.g];
      }
    }
  }

  void run() {
    for (std::int64_t begin = 0; begin < s_.n; begin += block_columns()) {
      const std::int64_t end = std::min(s_.n, begin + block_columns());
      std::fill(change_.begin(), change_.end(), 0.0F);
      if (beam_ > 1) start_block();
      for (std::int64_t c = begin; c < end; c += s_.g) {
        std::fill(own_.begin(), own_.end(), 0.0F);
        for (std::int64_t m = 0; m < s_.e.codebooks; ++m) {
          prepare(c, m);
          if (beam_ == 1)
            choose(m);
          else
            choose_several(begin, c, end, m);
          move(c, m);
        }
        spread(begin, c, end);
      }
      if (end == s_.n) break;
      if (beam_ > 1) follow_origins(end);
      core::count_product(s_.n - end, stride_, end - begin);
      // The host's gemm whatever the device is: tiles are dealt to the pool's threads.
      kernels::cpu().linalg.gemm_f32({&rows_.pool(), nullptr}, true, false, s_.n - end, stride_, end - begin, 1.0F,
                                     s_.block(begin, end), s_.n, change_.data(), stride_, 1.0F,
                                     product_.data() + end * stride_, stride_);
    }
    for (std::int64_t row = 0; row < n_rows_; ++row)
      std::copy_n(codes_.begin() + row * beam_ * codes_of_row(), codes_of_row(),
                  rows_.numbers.codes.begin() + (first_ + row) * codes_of_row());
  }

 private:
  std::int64_t codes_of_row() const { return s_.e.groups() * s_.e.codebooks; }
  std::int64_t block_columns() const { return std::max(s_.g, kBlockColumns / s_.g * s_.g); }
  float* book(std::int64_t m) { return books_.data() + m * (s_.g + 1) * s_.k; }
  float* half_norms(std::int64_t m) { return book(m) + s_.g * s_.k; }
  std::uint16_t& code(std::int64_t state, std::int64_t c, std::int64_t m) {
    return codes_[index(state * codes_of_row() + s_.order[index(c / s_.g)] * s_.e.codebooks + m)];
  }

  /// Half the norms of the codebook's centroids under the block at c, the present centroids, and the points.
  void prepare(std::int64_t c, std::int64_t m) {
    const float* columns = book(m);
    float* half = half_norms(m);
    std::fill(half, half + s_.k, 0.0F);
    for (std::int64_t a = 0; a < s_.g; ++a)
      for (std::int64_t b = a; b < s_.g; ++b) {
        const float h = s_.block(c + a, c)[b] * (a == b ? 0.5F : 1.0F);
        const float *x = columns + a * s_.k, *y = columns + b * s_.k;
        for (std::int64_t j = 0; j < s_.k; ++j) half[j] += h * (x[j] * y[j]);
      }
    for (std::int64_t state = 0; state < n_states_; ++state) {
      const std::uint16_t present = code(state, c, m);
      for (std::int64_t i = 0; i < s_.g; ++i) old_[index(i * stride_ + state)] = columns[i * s_.k + present];
    }
    for (std::int64_t i = 0; i < s_.g; ++i) {
      float* point = points_.data() + i * stride_;
      const float* product = product_.data() + (c + i) * stride_;
      for (std::int64_t state = 0; state < stride_; ++state) point[state] = product[state] * inverse_[index(state)];
      for (std::int64_t a = 0; a < s_.g; ++a) {
        const float h = s_.block(c + i, c)[a];
        const float* old = old_.data() + a * stride_;
        for (std::int64_t state = 0; state < stride_; ++state) point[state] += h * old[state];
      }
    }
  }

  void choose(std::int64_t m) {
    kernels::nearest_by_column(n_states_, s_.g, points_.data(), stride_, s_.k, book(m), choice_.data());
  }

  /// The centroids chosen take the place of the present ones: in the codes, the products of the group and the changes.
  void move(std::int64_t c, std::int64_t m) {
    const float* columns = book(m);
    for (std::int64_t state = 0; state < n_states_; ++state) {
      const std::int32_t chosen = choice_[index(state)];
      code(state, c, m) = static_cast<std::uint16_t>(chosen);
      for (std::int64_t i = 0; i < s_.g; ++i) {
        float& old = old_[index(i * stride_ + state)];
        old = scale_[index(state)] * (old - columns[i * s_.k + chosen]);  // from here on the change of D
      }
    }
    for (std::int64_t a = 0; a < s_.g; ++a) {
      const float* change = old_.data() + a * stride_;
      float* sum = own_.data() + a * stride_;
      for (std::int64_t state = 0; state < n_states_; ++state) sum[state] += change[state];
      for (std::int64_t i = 0; i < s_.g; ++i) add(s_.block(c + a, c)[i], change, product_.data() + (c + i) * stride_);
    }
  }

  /// The group's changes, to the later columns of the block, and to those that the rest gets.
  void spread(std::int64_t begin, std::int64_t c, std::int64_t end) {
    std::copy(own_.begin(), own_.end(), change_.begin() + (c - begin) * stride_);
    for (std::int64_t later = c + s_.g; later < end; ++later)
      for (std::int64_t a = 0; a < s_.g; ++a)
        add(*s_.block(c + a, later), own_.data() + a * stride_, product_.data() + later * stride_);
  }
  void add(float by, const float* from, float* to) const {
    for (std::int64_t state = 0; state < n_states_; ++state) to[state] += by * from[state];
  }

  // Several states of a row.

  struct Candidate {
    double loss;
    std::int32_t parent, code;
  };

  void start_block() {
    origin_.resize(index(n_states_));
    for (std::int64_t state = 0; state < n_states_; ++state)
      origin_[index(state)] = static_cast<std::int32_t>(state % beam_);
  }

  /// Of all choices of a codebook's code in any of a row's states those of the least loss, in rising order; of equals
  /// the one of the better state, then of the lower code. Until a first choice was made a row has one state.
  void choose_several(std::int64_t begin, std::int64_t c, std::int64_t end, std::int64_t m) {
    const float *columns = book(m), *half = half_norms(m);
    std::vector<float> scores(index(s_.k));
    std::vector<Candidate> best;
    std::vector<std::int32_t> parents(index(beam_));
    for (std::int64_t row = 0; row < n_rows_; ++row) {
      best.clear();
      for (std::int32_t b = 0; b < (split_ ? beam_ : 1); ++b) {
        const std::int64_t state = row * beam_ + b;
        std::copy(half, half + s_.k, scores.begin());
        for (std::int64_t i = 0; i < s_.g; ++i) {
          const float x = points_[index(i * stride_ + state)];
          const float* column = columns + i * s_.k;
          for (std::int64_t j = 0; j < s_.k; ++j) scores[index(j)] -= x * column[j];
        }
        const float present = scores[code(state, c, m)];
        const double by = 2 * static_cast<double>(scale_[index(state)]) * static_cast<double>(scale_[index(state)]);
        for (std::int32_t j = 0; j < s_.k; ++j) {
          const double loss = loss_[index(state)] + by * static_cast<double>(scores[index(j)] - present);
          if (std::ssize(best) == beam_ && !(loss < best.back().loss)) continue;
          if (std::ssize(best) == beam_) best.pop_back();
          const auto place = std::upper_bound(best.begin(), best.end(), loss,
                                              [](double value, const Candidate& other) { return value < other.loss; });
          best.insert(place, {loss, b, j});
        }
      }
      // Fewer centroids than states to fill: the best again.
      while (std::ssize(best) < beam_) best.push_back(best.front());
      for (std::int64_t b = 0; b < beam_; ++b) parents[index(b)] = best[index(b)].parent;
      for (std::int64_t b = 0; b < beam_; ++b) {
        loss_[index(row * beam_ + b)] = best[index(b)].loss;
        choice_[index(row * beam_ + b)] = best[index(b)].code;
      }
      inherit(row, begin, c, end, parents);
    }
    split_ = true;
  }

  /// State b of a row becomes what parents[b] was.
  void inherit(std::int64_t row, std::int64_t begin, std::int64_t c, std::int64_t end,
               const std::vector<std::int32_t>& parents) {
    std::vector<float> kept(index(beam_));
    const auto follow = [&](float* column) {
      float* states = column + row * beam_;
      std::copy_n(states, beam_, kept.begin());
      for (std::int64_t b = 0; b < beam_; ++b) states[b] = kept[index(parents[index(b)])];
    };
    for (std::int64_t column = c; column < end; ++column) follow(product_.data() + column * stride_);
    for (std::int64_t column = begin; column < c; ++column) follow(change_.data() + (column - begin) * stride_);
    for (std::int64_t i = 0; i < s_.g; ++i) {
      follow(own_.data() + i * stride_);
      follow(old_.data() + i * stride_);
    }
    const std::vector<std::int32_t> origins(origin_.begin() + row * beam_, origin_.begin() + (row + 1) * beam_);
    const std::vector<std::uint16_t> codes(codes_.begin() + row * beam_ * codes_of_row(),
                                           codes_.begin() + (row + 1) * beam_ * codes_of_row());
    for (std::int64_t b = 0; b < beam_; ++b) {
      origin_[index(row * beam_ + b)] = origins[index(parents[index(b)])];
      std::copy_n(codes.begin() + parents[index(b)] * codes_of_row(), codes_of_row(),
                  codes_.begin() + (row * beam_ + b) * codes_of_row());
    }
  }

  /// The products of the columns from `end` on become those of the states that the present ones came of.
  void follow_origins(std::int64_t end) {
    std::vector<float> kept(index(beam_));
    for (std::int64_t column = end; column < s_.n; ++column)
      for (std::int64_t row = 0; row < n_rows_; ++row) {
        float* states = product_.data() + column * stride_ + row * beam_;
        std::copy_n(states, beam_, kept.begin());
        for (std::int64_t b = 0; b < beam_; ++b) states[b] = kept[index(origin_[index(row * beam_ + b)])];
      }
  }

  const SweepShared& s_;
  AdditiveRows& rows_;
  std::int64_t first_, n_rows_;
  std::int32_t beam_;
  std::int64_t n_states_, stride_;
  std::vector<float> books_;               // as SweepShared::by_column
  std::vector<float> product_;             // [n, stride] D H
  std::vector<float> change_;              // [columns of a block, stride] of D
  std::vector<float> own_, points_, old_;  // [g, stride] of a group: its change, what is searched for, what it has
  std::vector<float> inverse_, scale_;     // [stride]
  std::vector<std::int32_t> choice_;       // [stride]
  std::vector<double> loss_;               // [states] against the start
  std::vector<std::uint16_t> codes_;       // [states, in / g, M]
  std::vector<std::int32_t> origin_;       // [states] at the start of the block, among those of the row
  bool split_ = false;
};

}  // namespace

void sweep_codes(AdditiveRows& rows, std::span<const float> metric, std::span<const std::int32_t> order, int beam) {
  const SweepShared shared(rows, metric, order);
  const std::int64_t tile = std::max<std::int64_t>(1, kTileStates / beam);
  rows.pool().parallel_for(core::ceil_div(rows.rows(), tile), [&](std::int64_t i) {
    SweepTile(shared, rows, i * tile, std::min(tile, rows.rows() - i * tile), beam).run();
  });
}

}  // namespace voronoi::quant
