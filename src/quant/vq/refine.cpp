#include "quant/vq/refine.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "core/error.h"
#include "core/types.h"

namespace voronoi::quant {
namespace {

// A conjugate-gradient step that lowers the error by less than this share of it is the last.
constexpr double kStepTolerance = 1e-4;
// Columns of a sweep whose changes reach the other columns in one product, and the smaller steps inside.
constexpr std::int64_t kBlock = 128;
constexpr std::int64_t kStep = 16;

using Values = std::vector<double>;
using Matrices = std::vector<std::vector<float>>;

/// Numbers on which the quantized weight depends linearly, codes fixed.
class Unknowns {
 public:
  virtual ~Unknowns() = default;
  virtual std::int64_t size() const = 0;
  /// The change that expand() applies from now on.
  virtual void set(const Values& values) = 0;
  /// d [in, width]: what the change does to the quantized values of a piece.
  virtual void expand(const Piece& piece, std::vector<float>& d) const = 0;
  /// The transpose of expand: adds what g [in, width] gives to each unknown.
  virtual void collect(const Piece& piece, const std::vector<float>& g, Values& sums) const = 0;
  /// Diagonal of the normal equations with H taken as its diagonal.
  virtual void collect_diagonal(const Piece& piece, Values& sums) const = 0;
};

/// All entries of the codebooks, in the order main, residual, outlier.
class CodebookUnknowns final : public Unknowns {
 public:
  explicit CodebookUnknowns(const VqRun& run) : run_(run), columns_(run.columns) {
    std::fill(columns_.bias.begin(), columns_.bias.end(), 0.0F);
  }
  std::int64_t size() const override {
    return static_cast<std::int64_t>(run_.books.main.size() + run_.books.residual.size() + run_.books.outlier.size());
  }
  void set(const Values& values) override {
    const double* from = values.data();
    const auto take = [&](const std::vector<float>& like, std::vector<float>& book) {
      book.resize(like.size());
      for (float& value : book) value = static_cast<float>(*from++);
    };
    take(run_.books.main, direction_.main);
    take(run_.books.residual, direction_.residual);
    take(run_.books.outlier, direction_.outlier);
  }
  void expand(const Piece& piece, std::vector<float>& d) const override {
    for (std::int64_t p = 0; p < run_.geometry.in_features; ++p)
      decode_column(run_.geometry, direction_, columns_, piece, p, piece.codes.data() + p * piece.code_stride,
                    residual_codes(piece, p), d.data() + p * piece.width);
  }
  void collect(const Piece& piece, const std::vector<float>& g, Values& sums) const override {
    scatter(piece, sums, [&](std::int64_t p, std::int64_t r) {
      return static_cast<double>(columns_.scale[static_cast<std::size_t>(p)]) *
             static_cast<double>(g[static_cast<std::size_t>(p * piece.width + r)]);
    });
  }
  void collect_diagonal(const Piece& piece, Values& sums) const override {
    scatter(piece, sums, [&](std::int64_t p, std::int64_t) {
      const double scale = static_cast<double>(columns_.scale[static_cast<std::size_t>(p)]);
      return scale * scale *
             static_cast<double>(run_.hessian[static_cast<std::size_t>(p * (run_.geometry.in_features + 1))]);
    });
  }

 private:
  static const std::int32_t* residual_codes(const Piece& piece, std::int64_t p) {
    return piece.residual_codes.empty() ? nullptr : piece.residual_codes.data() + p * piece.code_stride;
  }
  template <class Value>
  void scatter(const Piece& piece, Values& sums, const Value& value) const {
    const VqGeometry& g = run_.geometry;
    const auto main_size = static_cast<std::int64_t>(run_.books.main.size()),
               residual_size = static_cast<std::int64_t>(run_.books.residual.size());
    for (std::int64_t p = 0; p < g.in_features; ++p) {
      const bool outlier = g.is_outlier(p);
      const std::int64_t v = outlier ? g.v0 : g.v, group = outlier ? 0 : g.group_of(p);
      double* main = sums.data() + (outlier ? main_size + residual_size : group * g.k * g.v);
      double* residual = outlier || residual_size == 0 ? nullptr : sums.data() + main_size + group * g.kr * g.v;
      const std::int32_t* codes = piece.codes.data() + p * piece.code_stride;
      const std::int32_t* second = residual_codes(piece, p);
      for (std::int64_t r = 0, i = 0; r < piece.rows; r += v, ++i) {
        const std::int64_t end = std::min(v, piece.rows - r);
        double* a = main + codes[i] * v;
        for (std::int64_t d = 0; d < end; ++d) a[d] += value(p, r + d);
        if (residual == nullptr) continue;
        double* b = residual + second[i] * v;
        for (std::int64_t d = 0; d < end; ++d) b[d] += value(p, r + d);
      }
    }
  }

  const VqRun& run_;
  ColumnScale columns_;
  Codebooks direction_;
};

/// Scale (first `in` values) and bias of every column.
class ColumnUnknowns final : public Unknowns {
 public:
  explicit ColumnUnknowns(const VqRun& run) : run_(run), n_(run.geometry.in_features) {
    unit_.scale.assign(static_cast<std::size_t>(n_), 1.0F);
    unit_.bias.assign(static_cast<std::size_t>(n_), 0.0F);
  }
  std::int64_t size() const override { return 2 * n_; }
  void set(const Values& values) override { values_.assign(values.begin(), values.end()); }
  void expand(const Piece& piece, std::vector<float>& d) const override {
    for (std::int64_t p = 0; p < n_; ++p) {
      float* column = d.data() + p * piece.width;
      decode(piece, p, column);
      const float scale = values_[static_cast<std::size_t>(p)], bias = values_[static_cast<std::size_t>(n_ + p)];
      for (std::int64_t r = 0; r < piece.rows; ++r) column[r] = column[r] * scale + bias;
    }
  }
  void collect(const Piece& piece, const std::vector<float>& g, Values& sums) const override {
    std::vector<float> column(static_cast<std::size_t>(piece.width));
    for (std::int64_t p = 0; p < n_; ++p) {
      decode(piece, p, column.data());
      const float* gradient = g.data() + p * piece.width;
      double along_scale = 0, along_bias = 0;
      for (std::int64_t r = 0; r < piece.rows; ++r) {
        along_scale += static_cast<double>(gradient[r]) * static_cast<double>(column[static_cast<std::size_t>(r)]);
        along_bias += static_cast<double>(gradient[r]);
      }
      sums[static_cast<std::size_t>(p)] += along_scale;
      sums[static_cast<std::size_t>(n_ + p)] += along_bias;
    }
  }
  void collect_diagonal(const Piece& piece, Values& sums) const override {
    std::vector<float> column(static_cast<std::size_t>(piece.width));
    for (std::int64_t p = 0; p < n_; ++p) {
      decode(piece, p, column.data());
      double squares = 0;
      for (std::int64_t r = 0; r < piece.rows; ++r)
        squares += static_cast<double>(column[static_cast<std::size_t>(r)]) *
                   static_cast<double>(column[static_cast<std::size_t>(r)]);
      const double h = static_cast<double>(run_.hessian[static_cast<std::size_t>(p * (n_ + 1))]);
      sums[static_cast<std::size_t>(p)] += h * squares;
      sums[static_cast<std::size_t>(n_ + p)] += h * static_cast<double>(piece.rows);
    }
  }

 private:
  void decode(const Piece& piece, std::int64_t p, float* column) const {
    decode_column(run_.geometry, run_.books, unit_, piece, p, piece.codes.data() + p * piece.code_stride,
                  piece.residual_codes.empty() ? nullptr : piece.residual_codes.data() + p * piece.code_stride, column);
  }

  const VqRun& run_;
  std::int64_t n_;
  ColumnScale unit_;
  std::vector<float> values_;
};

void hessian_product(VqRun& run, const Piece& piece, const std::vector<float>& x, std::vector<float>& product) {
  const std::int64_t n = run.geometry.in_features;
  run.context.linalg().gemm_f32(run.context.exec(), false, false, n, piece.width, n, 1.0F, run.hessian.data(), n,
                                x.data(), piece.width, 0.0F, product.data(), piece.width);
}

template <class Body>
Values sum_of_pieces(VqRun& run, std::int64_t size, const Body& body) {
  std::vector<Values> parts(run.pieces.size());
  run.context.pool().parallel_for(static_cast<std::int64_t>(parts.size()), [&](std::int64_t i) {
    const auto at = static_cast<std::size_t>(i);
    parts[at].assign(static_cast<std::size_t>(size), 0.0);
    body(at, parts[at]);
  });
  return sum_over_pieces(run.team, size, std::move(parts));
}

double dot(const Values& a, const Values& b) {
  double sum = 0;
  for (std::size_t i = 0; i < a.size(); ++i) sum += a[i] * b[i];
  return sum;
}

/// The change of the unknowns that lowers the error most, by conjugate gradients with the diagonal as preconditioner.
Values solve(VqRun& run, Unknowns& unknowns, const Matrices& gradient, double error, int max_steps, int& steps) {
  const std::int64_t size = unknowns.size();
  const auto n = static_cast<std::size_t>(size);
  Values rest = sum_of_pieces(run, size,
                              [&](std::size_t i, Values& sums) { unknowns.collect(run.pieces[i], gradient[i], sums); });
  Values diagonal =
      sum_of_pieces(run, size, [&](std::size_t i, Values& sums) { unknowns.collect_diagonal(run.pieces[i], sums); });
  // An unknown nothing depends on stays as it is.
  for (double& value : diagonal) value = value > 0 ? 1 / value : 0;
  Values change(n, 0.0), conditioned(n), direction(n, 0.0);
  double before = 0;
  for (steps = 0; steps < max_steps; ++steps) {
    for (std::size_t i = 0; i < n; ++i) conditioned[i] = rest[i] * diagonal[i];
    const double now = dot(rest, conditioned);
    if (!(now > 0)) break;
    const double beta = steps == 0 ? 0.0 : now / before;
    for (std::size_t i = 0; i < n; ++i) direction[i] = conditioned[i] + beta * direction[i];
    before = now;
    unknowns.set(direction);
    const Values curved = sum_of_pieces(run, size, [&](std::size_t i, Values& sums) {
      const Piece& piece = run.pieces[i];
      std::vector<float> d(piece.weight.size(), 0.0F), product(piece.weight.size());
      unknowns.expand(piece, d);
      hessian_product(run, piece, d, product);
      unknowns.collect(piece, product, sums);
    });
    const double curvature = dot(direction, curved);
    if (!(curvature > 0) || !std::isfinite(curvature)) break;
    const double length = now / curvature;
    for (std::size_t i = 0; i < n; ++i) {
      change[i] += length * direction[i];
      rest[i] -= length * curved[i];
    }
    const double gain = length * now;
    error -= gain;
    if (gain < kStepTolerance * error) {
      ++steps;
      break;
    }
  }
  return change;
}

/// One sweep over the columns of a piece.
class PieceSweep {
 public:
  PieceSweep(VqRun& run, Piece& piece, std::vector<float>& gradient, std::int64_t candidates)
      : run_(run),
        piece_(piece),
        gradient_(gradient),
        n_(run.geometry.in_features),
        width_(piece.width),
        search_(run.context, run.geometry, run.books, run.columns, candidates, piece, piece.rows),
        block_(static_cast<std::size_t>(std::min(kBlock, n_) * width_)),
        change_(block_.size()),
        target_(static_cast<std::size_t>(width_)),
        chosen_(target_.size()),
        codes_(static_cast<std::size_t>(piece.code_stride)),
        residual_codes_(codes_.size()) {}

  void sweep() {
    for (std::int64_t s = 0; s < n_; s += kBlock) {
      const std::int64_t e = std::min(n_, s + kBlock);
      std::copy_n(gradient_.data() + s * width_, (e - s) * width_, block_.data());
      for (std::int64_t t = s; t < e; t += kStep) {
        const std::int64_t u = std::min(e, t + kStep);
        for (std::int64_t column = t; column < u; ++column) {
          float* gradient = block_.data() + (column - s) * width_;
          for (std::int64_t j = t; j < column; ++j) {
            const float h = run_.hessian[static_cast<std::size_t>(j * n_ + column)];
            const float* change = change_.data() + (j - s) * width_;
            for (std::int64_t r = 0; r < width_; ++r) gradient[r] -= h * change[r];
          }
          visit(column, gradient, change_.data() + (column - s) * width_);
        }
        spread(t, u, u, e, s, block_.data() + (u - s) * width_);
      }
      spread(s, e, 0, n_, s, gradient_.data());
    }
  }

 private:
  void visit(std::int64_t column, const float* gradient, float* change) {
    const std::int64_t at = column * piece_.code_stride;
    float* quantized = piece_.quantized.data() + column * width_;
    const float inverse = 1.0F / run_.hessian[static_cast<std::size_t>(column * (n_ + 1))];
    for (std::int64_t r = 0; r < width_; ++r)
      target_[static_cast<std::size_t>(r)] = quantized[r] + gradient[r] * inverse;
    search_.choose(column, target_.data(), codes_.data(), residual_codes_.data(), chosen_.data());
    const std::int64_t v = run_.geometry.is_outlier(column) ? run_.geometry.v0 : run_.geometry.v;
    std::fill_n(change, width_, 0.0F);
    for (std::int64_t r = 0, i = 0; r < piece_.rows; r += v, ++i) {
      const std::int64_t end = std::min(r + v, piece_.rows);
      float old_distance = 0, new_distance = 0;
      for (std::int64_t j = r; j < end; ++j) {
        const auto k = static_cast<std::size_t>(j);
        const float a = target_[k] - quantized[j], b = target_[k] - chosen_[k];
        old_distance += a * a;
        new_distance += b * b;
      }
      if (!(new_distance < old_distance)) continue;
      piece_.codes[static_cast<std::size_t>(at + i)] = codes_[static_cast<std::size_t>(i)];
      if (!piece_.residual_codes.empty())
        piece_.residual_codes[static_cast<std::size_t>(at + i)] = residual_codes_[static_cast<std::size_t>(i)];
      for (std::int64_t j = r; j < end; ++j) {
        change[j] = chosen_[static_cast<std::size_t>(j)] - quantized[j];
        quantized[j] = chosen_[static_cast<std::size_t>(j)];
      }
    }
  }

  /// to_rows [to, to_end) -= H[from, from_end)[to, to_end)^T change[from, from_end).
  void spread(std::int64_t from, std::int64_t from_end, std::int64_t to, std::int64_t to_end, std::int64_t block_start,
              float* to_rows) {
    if (to >= to_end) return;
    run_.context.linalg().gemm_f32(run_.context.exec(), true, false, to_end - to, width_, from_end - from, -1.0F,
                                   run_.hessian.data() + from * n_ + to, n_,
                                   change_.data() + (from - block_start) * width_, width_, 1.0F, to_rows, width_);
  }

  VqRun& run_;
  Piece& piece_;
  std::vector<float>& gradient_;
  std::int64_t n_, width_;
  ColumnSearch search_;
  std::vector<float> block_, change_;  ///< [kBlock, width] gradients and changes of the block's columns
  std::vector<float> target_, chosen_;
  std::vector<std::int32_t> codes_, residual_codes_;
};

}  // namespace

Refiner::Refiner(VqRun& run) : run_(run) {
  for (const Piece& piece : run.pieces) gradient_.emplace_back(piece.weight.size());
}

double Refiner::update() {
  run_.context.pool().parallel_for(static_cast<std::int64_t>(run_.pieces.size()), [&](std::int64_t i) {
    const auto at = static_cast<std::size_t>(i);
    Piece& piece = run_.pieces[at];
    std::vector<float> lost(piece.weight.size());
    for (std::int64_t p = 0; p < run_.geometry.in_features; ++p)
      decode_column(run_.geometry, run_.books, run_.columns, piece, p, piece.codes.data() + p * piece.code_stride,
                    piece.residual_codes.empty() ? nullptr : piece.residual_codes.data() + p * piece.code_stride,
                    piece.quantized.data() + p * piece.width);
    std::transform(piece.weight.begin(), piece.weight.end(), piece.quantized.begin(), lost.begin(), std::minus<>());
    hessian_product(run_, piece, lost, gradient_[at]);
  });
  return error_of_gradients();
}

double Refiner::error_of_gradients() {
  const Values error = sum_of_pieces(run_, 1, [&](std::size_t i, Values& sums) {
    const Piece& piece = run_.pieces[i];
    for (std::size_t j = 0; j < piece.weight.size(); ++j)
      sums[0] += static_cast<double>(piece.weight[j] - piece.quantized[j]) * static_cast<double>(gradient_[i][j]);
  });
  return error_ = error[0];
}

int Refiner::fit_codebooks(int max_steps) {
  CodebookUnknowns unknowns(run_);
  int steps = 0;
  const Values change = solve(run_, unknowns, gradient_, error_, max_steps, steps);
  const double* from = change.data();
  for (std::vector<float>* book : {&run_.books.main, &run_.books.residual, &run_.books.outlier})
    for (float& value : *book) {
      const float fitted =
          core::round_to(run_.input.stored_dtype, static_cast<float>(static_cast<double>(value) + *from++));
      if (std::isfinite(fitted)) value = fitted;
    }
  return steps;
}

int Refiner::fit_columns(int max_steps) {
  ColumnUnknowns unknowns(run_);
  int steps = 0;
  const Values change = solve(run_, unknowns, gradient_, error_, max_steps, steps);
  const auto n = static_cast<std::size_t>(run_.geometry.in_features);
  for (std::size_t p = 0; p < n; ++p) {
    const auto fitted = [&](float value, double by) {
      return core::round_to(run_.input.stored_dtype, static_cast<float>(static_cast<double>(value) + by));
    };
    float& scale = run_.columns.scale[p];
    float& bias = run_.columns.bias[p];
    const float new_scale = fitted(scale, change[p]), new_bias = fitted(bias, change[n + p]);
    // Searches divide by the scale: one that all but vanishes, or turns, stays as it was.
    if (!std::isfinite(new_scale) || !std::isfinite(new_bias) || new_scale < 0.1F * scale) continue;
    scale = new_scale;
    bias = new_bias;
  }
  return steps;
}

double Refiner::sweep(std::int64_t candidates) {
  run_.context.pool().parallel_for(static_cast<std::int64_t>(run_.pieces.size()), [&](std::int64_t i) {
    const auto at = static_cast<std::size_t>(i);
    PieceSweep(run_, run_.pieces[at], gradient_[at], candidates).sweep();
  });
  return error_of_gradients();
}

}  // namespace voronoi::quant
