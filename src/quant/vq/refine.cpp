#include "quant/vq/refine.h"

#include <algorithm>
#include <cmath>

#include "core/index.h"
#include "core/types.h"
#include "core/work_counts.h"
#include "quant/vq/second_order.h"

namespace voronoi::quant {
namespace {

// A conjugate-gradient step that lowers the error by less than this share of it is the last.
constexpr double kStepTolerance = 1e-4;

using Values = std::vector<double>;

/// Numbers on which the quantized weight depends linearly, codes fixed.
class Unknowns {
 public:
  virtual ~Unknowns() = default;
  virtual std::int64_t size() const = 0;
  /// d [in, width]: what a change of the unknowns does to the quantized values.
  virtual void expand(const Values& change, backend::Array<float>& d) = 0;
  /// The transpose of expand, as the kernels make sums: what g [in, width] gives to each unknown. g null: the diagonal
  /// of the normal equations with H taken as its diagonal. Of one piece of the rows.
  virtual void collect(const VqPiece& piece, const float* g, bool combined, double* sums) = 0;
};

/// The diagonal of each row group's Hessian, where kernels read it.
class DeviceDiagonals {
 public:
  explicit DeviceDiagonals(const VqProblem& problem) {
    for (const VqMetric& metric : problem.metrics) views_.emplace_back(problem.context, metric.diagonal);
  }
  const float* of(const VqPiece& piece) const { return views_[core::index(piece.row_group)].data(); }

 private:
  std::vector<backend::DeviceView<float>> views_;
};

const float* of_piece(const VqPiece& piece, const float* matrix) {
  return matrix == nullptr ? nullptr : piece.values(matrix);
}

/// All entries of the codebooks, in the order main, residual, outlier.
class CodebookUnknowns final : public Unknowns {
 public:
  CodebookUnknowns(const VqProblem& problem, VqState& state)
      : problem_(problem),
        state_(state),
        columns_{state.columns.scale, std::vector<float>(state.columns.bias.size(), 0.0F)},
        scale_(problem.context, columns_.scale),
        diagonals_(problem) {}
  std::int64_t size() const override {
    return static_cast<std::int64_t>(state_.books.main.size() + state_.books.residual.size() +
                                     state_.books.outlier.size());
  }
  void expand(const Values& change, backend::Array<float>& d) override {
    Codebooks direction;
    const double* from = change.data();
    const auto take = [&](const std::vector<float>& like, std::vector<float>& book) {
      book.resize(like.size());
      for (float& value : book) value = static_cast<float>(*from++);
    };
    take(state_.books.main, direction.main);
    take(state_.books.residual, direction.residual);
    take(state_.books.outlier, direction.outlier);
    const DeviceBooks books(problem_.context, direction, columns_);
    for (const VqPiece& piece : problem_.rows.pieces)
      problem_.context.slice().decode(problem_.context.exec(), piece.slice, books.view(),
                                      piece.codes(state_.code_view()), piece.values(d.data()));
  }
  void collect(const VqPiece& piece, const float* g, bool combined, double* sums) override {
    problem_.context.slice().collect_books(problem_.context.exec(), piece.slice, piece.codes(state_.code_view()),
                                           scale_.data(), of_piece(piece, g), diagonals_.of(piece), combined, sums);
  }

 private:
  const VqProblem& problem_;
  VqState& state_;
  ColumnScale columns_;
  backend::DeviceView<float> scale_;
  DeviceDiagonals diagonals_;
};

/// Scale (first `in` values) and bias of every column.
class ColumnUnknowns final : public Unknowns {
 public:
  ColumnUnknowns(const VqProblem& problem, VqState& state)
      : problem_(problem),
        state_(state),
        n_(problem.geometry.in_features),
        books_(problem.context, state.books, state.columns),
        diagonals_(problem) {}
  std::int64_t size() const override { return 2 * n_; }
  void expand(const Values& change, backend::Array<float>& d) override {
    const std::vector<float> values(change.begin(), change.end());
    const backend::DeviceView<float> direction(problem_.context, values);
    kernels::VqBooks books = books_.view();
    books.scale = direction.data();
    books.bias = direction.data() + n_;
    for (const VqPiece& piece : problem_.rows.pieces)
      problem_.context.slice().decode(problem_.context.exec(), piece.slice, books, piece.codes(state_.code_view()),
                                      piece.values(d.data()));
  }
  void collect(const VqPiece& piece, const float* g, bool combined, double* sums) override {
    problem_.context.slice().collect_columns(problem_.context.exec(), piece.slice, books_.view(),
                                             piece.codes(state_.code_view()), of_piece(piece, g), diagonals_.of(piece),
                                             combined, sums);
  }

 private:
  const VqProblem& problem_;
  VqState& state_;
  std::int64_t n_;
  DeviceBooks books_;
  DeviceDiagonals diagonals_;
};

Values collected(const VqProblem& problem, Unknowns& unknowns, const float* g) {
  return sum_over_parts(
      problem.context, problem.team, problem.geometry.n_parts, problem.rows, unknowns.size(),
      [&](const VqPiece& piece, bool combined, double* sums) { unknowns.collect(piece, g, combined, sums); });
}

double dot(const Values& a, const Values& b) {
  double sum = 0;
  for (std::size_t i = 0; i < a.size(); ++i) sum += a[i] * b[i];
  return sum;
}

/// The change of the unknowns that lowers the error most, by conjugate gradients with the diagonal as preconditioner.
Values solve(const VqProblem& problem, Unknowns& unknowns, const backend::Array<float>& gradient, double error,
             int max_steps, int& steps) {
  const auto n = static_cast<std::size_t>(unknowns.size());
  Values rest = collected(problem, unknowns, gradient.data()), diagonal = collected(problem, unknowns, nullptr);
  // An unknown nothing depends on stays as it is.
  for (double& value : diagonal) value = value > 0 ? 1 / value : 0;
  Values change(n, 0.0), conditioned(n), direction(n, 0.0);
  backend::Array<float> d(problem.context, gradient.size()), product(problem.context, gradient.size());
  double before = 0;
  for (steps = 0; steps < max_steps; ++steps) {
    for (std::size_t i = 0; i < n; ++i) conditioned[i] = rest[i] * diagonal[i];
    const double now = dot(rest, conditioned);
    if (!(now > 0)) break;
    const double beta = steps == 0 ? 0.0 : now / before;
    for (std::size_t i = 0; i < n; ++i) direction[i] = conditioned[i] + beta * direction[i];
    before = now;
    unknowns.expand(direction, d);
    problem.hessian_product(d, product);
    const Values curved = collected(problem, unknowns, product.data());
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

}  // namespace

Refiner::Refiner(const VqProblem& problem, VqState& state)
    : problem_(problem),
      state_(state),
      gradient_(problem.context, problem.rows.weight.size()),
      work_(problem.context, problem.rows.weight.size()) {}

double Refiner::update() {
  decode_state(problem_, state_);
  subtract_quantized(problem_, state_, work_);
  problem_.hessian_product(work_, gradient_);
  return error_ = problem_.dot(work_, gradient_);
}

int Refiner::fit_codebooks(int max_steps) {
  CodebookUnknowns unknowns(problem_, state_);
  int steps = 0;
  const Values change = solve(problem_, unknowns, gradient_, error_, max_steps, steps);
  const double* from = change.data();
  for (std::vector<float>* book : {&state_.books.main, &state_.books.residual, &state_.books.outlier})
    for (float& value : *book) {
      const float fitted =
          core::round_to(problem_.input.stored_dtype, static_cast<float>(static_cast<double>(value) + *from++));
      if (std::isfinite(fitted)) value = fitted;
    }
  return steps;
}

int Refiner::fit_columns(int max_steps) {
  ColumnUnknowns unknowns(problem_, state_);
  int steps = 0;
  const Values change = solve(problem_, unknowns, gradient_, error_, max_steps, steps);
  const auto n = static_cast<std::size_t>(problem_.geometry.in_features);
  for (std::size_t p = 0; p < n; ++p) {
    const auto fitted = [&](float value, double by) {
      return core::round_to(problem_.input.stored_dtype, static_cast<float>(static_cast<double>(value) + by));
    };
    float& scale = state_.columns.scale[p];
    float& bias = state_.columns.bias[p];
    const float new_scale = fitted(scale, change[p]), new_bias = fitted(bias, change[n + p]);
    // Searches divide by the scale: one that all but vanishes, or turns, stays as it was.
    if (!std::isfinite(new_scale) || !std::isfinite(new_bias) || new_scale < 0.1F * scale) continue;
    scale = new_scale;
    bias = new_bias;
  }
  return steps;
}

double Refiner::sweep(std::int64_t candidates) {
  const DeviceBooks books(problem_.context, state_.books, state_.columns);
  count_search(problem_.rows, state_.books, candidates);
  core::count_work(core::Counted::gemm_flops, 2 * spreading_flops(problem_.rows));
  for (const VqPiece& piece : problem_.rows.pieces)
    problem_.context.slice().sweep(problem_.context.exec(), piece.slice, books.view(), candidates,
                                   problem_.metrics[core::index(piece.row_group)].hessian.data(),
                                   piece.values(gradient_.data()), piece.codes(state_.code_view()),
                                   piece.values(state_.quantized.data()));
  subtract_quantized(problem_, state_, work_);
  return error_ = problem_.dot(work_, gradient_);
}

}  // namespace voronoi::quant
