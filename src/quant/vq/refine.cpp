#include "quant/vq/refine.h"

#include <algorithm>
#include <cmath>

#include "core/types.h"

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
  /// of the normal equations with H taken as its diagonal.
  virtual void collect(const float* g, bool combined, double* sums) = 0;
};

/// All entries of the codebooks, in the order main, residual, outlier.
class CodebookUnknowns final : public Unknowns {
 public:
  explicit CodebookUnknowns(VqRun& run)
      : run_(run),
        columns_{run.columns.scale, std::vector<float>(run.columns.bias.size(), 0.0F)},
        scale_(run.context, columns_.scale),
        diagonal_(run.context, run.hessian_diagonal) {}
  std::int64_t size() const override {
    return static_cast<std::int64_t>(run_.books.main.size() + run_.books.residual.size() + run_.books.outlier.size());
  }
  void expand(const Values& change, backend::Array<float>& d) override {
    Codebooks direction;
    const double* from = change.data();
    const auto take = [&](const std::vector<float>& like, std::vector<float>& book) {
      book.resize(like.size());
      for (float& value : book) value = static_cast<float>(*from++);
    };
    take(run_.books.main, direction.main);
    take(run_.books.residual, direction.residual);
    take(run_.books.outlier, direction.outlier);
    const DeviceBooks books(run_.context, direction, columns_);
    run_.context.slice().decode(run_.context.exec(), run_.rows.slice, books.view(), run_.rows.code_view(), d.data());
  }
  void collect(const float* g, bool combined, double* sums) override {
    run_.context.slice().collect_books(run_.context.exec(), run_.rows.slice, run_.rows.code_view(), scale_.data(), g,
                                       diagonal_.data(), combined, sums);
  }

 private:
  VqRun& run_;
  ColumnScale columns_;
  backend::DeviceView<float> scale_, diagonal_;
};

/// Scale (first `in` values) and bias of every column.
class ColumnUnknowns final : public Unknowns {
 public:
  explicit ColumnUnknowns(VqRun& run)
      : run_(run),
        n_(run.geometry.in_features),
        books_(run.context, run.books, run.columns),
        diagonal_(run.context, run.hessian_diagonal) {}
  std::int64_t size() const override { return 2 * n_; }
  void expand(const Values& change, backend::Array<float>& d) override {
    const std::vector<float> values(change.begin(), change.end());
    const backend::DeviceView<float> direction(run_.context, values);
    kernels::VqBooks books = books_.view();
    books.scale = direction.data();
    books.bias = direction.data() + n_;
    run_.context.slice().decode(run_.context.exec(), run_.rows.slice, books, run_.rows.code_view(), d.data());
  }
  void collect(const float* g, bool combined, double* sums) override {
    run_.context.slice().collect_columns(run_.context.exec(), run_.rows.slice, books_.view(), run_.rows.code_view(), g,
                                         diagonal_.data(), combined, sums);
  }

 private:
  VqRun& run_;
  std::int64_t n_;
  DeviceBooks books_;
  backend::DeviceView<float> diagonal_;
};

Values collected(VqRun& run, Unknowns& unknowns, const float* g) {
  return sum_over_parts(run.context, run.team, run.geometry.n_parts, run.rows.parts.count, unknowns.size(),
                        [&](bool combined, double* sums) { unknowns.collect(g, combined, sums); });
}

double dot(const Values& a, const Values& b) {
  double sum = 0;
  for (std::size_t i = 0; i < a.size(); ++i) sum += a[i] * b[i];
  return sum;
}

/// The change of the unknowns that lowers the error most, by conjugate gradients with the diagonal as preconditioner.
Values solve(VqRun& run, Unknowns& unknowns, const backend::Array<float>& gradient, double error, int max_steps,
             int& steps) {
  const auto n = static_cast<std::size_t>(unknowns.size());
  Values rest = collected(run, unknowns, gradient.data()), diagonal = collected(run, unknowns, nullptr);
  // An unknown nothing depends on stays as it is.
  for (double& value : diagonal) value = value > 0 ? 1 / value : 0;
  Values change(n, 0.0), conditioned(n), direction(n, 0.0);
  backend::Array<float> d(run.context, gradient.size()), product(run.context, gradient.size());
  double before = 0;
  for (steps = 0; steps < max_steps; ++steps) {
    for (std::size_t i = 0; i < n; ++i) conditioned[i] = rest[i] * diagonal[i];
    const double now = dot(rest, conditioned);
    if (!(now > 0)) break;
    const double beta = steps == 0 ? 0.0 : now / before;
    for (std::size_t i = 0; i < n; ++i) direction[i] = conditioned[i] + beta * direction[i];
    before = now;
    unknowns.expand(direction, d);
    hessian_product(run, d, product);
    const Values curved = collected(run, unknowns, product.data());
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

Refiner::Refiner(VqRun& run)
    : run_(run), gradient_(run.context, run.rows.weight.size()), work_(run.context, run.rows.weight.size()) {}

double Refiner::update() {
  const DeviceBooks books(run_.context, run_.books, run_.columns);
  run_.context.slice().decode(run_.context.exec(), run_.rows.slice, books.view(), run_.rows.code_view(),
                              run_.rows.quantized.data());
  subtract_quantized();
  hessian_product(run_, work_, gradient_);
  return error_ = error_of_gradients();
}

void Refiner::subtract_quantized() {
  run_.context.slice().subtract(run_.context.exec(), work_.size(), run_.rows.weight.data(), run_.rows.quantized.data(),
                                work_.data());
}

double Refiner::error_of_gradients() {
  return sum_over_parts(run_.context, run_.team, run_.geometry.n_parts, run_.rows.parts.count, 1,
                        [&](bool combined, double* sums) {
                          run_.context.slice().dots(run_.context.exec(), run_.rows.slice, work_.data(),
                                                    gradient_.data(), combined, sums);
                        })
      .front();
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
  const DeviceBooks books(run_.context, run_.books, run_.columns);
  run_.context.slice().sweep(run_.context.exec(), run_.rows.slice, books.view(), candidates, run_.hessian,
                             gradient_.data(), run_.rows.code_view(), run_.rows.quantized.data());
  subtract_quantized();
  return error_ = error_of_gradients();
}

}  // namespace voronoi::quant
