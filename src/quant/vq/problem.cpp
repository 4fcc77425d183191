#include "quant/vq/problem.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <span>

#include "core/error.h"
#include "core/index.h"
#include "core/work_counts.h"

namespace voronoi::quant {
namespace {

std::vector<float> diagonal_of(backend::Context& context, std::int64_t n, const float* matrix) {
  backend::Array<float> diagonal(context, n);
  context.hessian().get_diagonal(context.exec(), n, matrix, diagonal.data());
  return diagonal.to_host();
}

}  // namespace

VqProblem::VqProblem(backend::Context& the_context, core::Team& the_team, const QuantInput& the_input,
                     const QuantParameters& the_parameters)
    : context(the_context), team(the_team), input(the_input), parameters(the_parameters) {
  VORONOI_REQUIRE(input.hessian != nullptr && input.hessian->n == input.in_features,
                  "the Hessian is of the operator's input");
  VORONOI_REQUIRE(static_cast<std::int64_t>(input.weight.size()) == input.out_features * input.in_features,
                  "the weight has its shape");
  const std::vector<HessianRows> ranges = hessian_rows(input);
  std::vector<std::int64_t> later_groups;
  for (std::size_t g = 1; g < ranges.size(); ++g) later_groups.push_back(ranges[g].first);
  geometry = make_geometry(parameters, input.out_features, input.in_features, later_groups);
  rows = make_rows(context, geometry, team, input.weight, input.hessian->perm);
  for (std::size_t g = 0; g < ranges.size(); ++g) {
    const std::int64_t end = g + 1 < ranges.size() ? geometry.row_groups[g + 1] : input.out_features;
    metrics.push_back({ranges[g].hessian, {}, {}, {}});
    if (geometry.row_groups[g] < end) fill(metrics.back());
  }
  weight_norm = undamped_norm(rows.weight, hessian_norm(rows.weight));
}

void VqProblem::fill(VqMetric& metric) const {
  const PreparedHessian& prepared = *metric.prepared;
  VORONOI_REQUIRE(prepared.perm == input.hessian->perm && prepared.unit_exponent == input.hessian->unit_exponent,
                  "groups of rows have one unit and one order of columns");
  metric.hessian = backend::Array<float>(context, prepared.h.size());
  const backend::DeviceView<std::int32_t> perm(context, prepared.perm);
  context.hessian().permute(context.exec(), prepared.n, prepared.h.data(), perm.data(), metric.hessian.data());
  const std::vector<float> undamped = diagonal_of(context, prepared.n, metric.hessian.data());
  for (const float value : undamped) metric.diagonal.push_back(value + static_cast<float>(prepared.added));
  const backend::DeviceView<float> damped(context, metric.diagonal);
  context.hessian().set_diagonal(context.exec(), prepared.n, damped.data(), metric.hessian.data());
  // An error of a column costs H_nn at once, and 1 / U_nn^2 after the columns behind it have made up for what they can
  // (the loop's own loss). Either alone is worse on real layers: the first counts what is repaired, the second trusts
  // the damping where a few hot columns carry nearly all of H. Their geometric mean gave the least error over the
  // layers of SmolLM2-135M, the hottest one included.
  const std::vector<float> factor_diagonal = diagonal_of(context, prepared.n, prepared.factor.data());
  for (std::size_t p = 0; p < factor_diagonal.size(); ++p)
    metric.importance.push_back(std::sqrt(static_cast<double>(undamped[p])) / static_cast<double>(factor_diagonal[p]));
}

bool VqProblem::has_held_out() const {
  return std::all_of(metrics.begin(), metrics.end(),
                     [](const VqMetric& metric) { return !metric.prepared->held_out.empty(); });
}

void VqProblem::product_with(Tokens tokens, const backend::Array<float>& x, backend::Array<float>& product) const {
  const std::int64_t n = geometry.in_features;
  for (const VqPiece& piece : rows.pieces) {
    const VqMetric& metric = metrics[core::index(piece.row_group)];
    const std::int64_t width = piece.slice.width;
    core::count_product(n, width, n);
    context.linalg().gemm_f32(context.exec(), false, false, n, width, n, 1.0F,
                              tokens == Tokens::fitted ? metric.hessian.data() : metric.prepared->held_out.data(), n,
                              piece.values(x.data()), width, 0.0F, piece.values(product.data()), width);
  }
}

void VqProblem::hessian_product(const backend::Array<float>& x, backend::Array<float>& product) const {
  product_with(Tokens::fitted, x, product);
}

double VqProblem::dot(const backend::Array<float>& a, const backend::Array<float>& b) const {
  return sum_over_parts(context, team, geometry.n_parts, rows, 1,
                        [&](const VqPiece& piece, bool combined, double* sums) {
                          context.slice().dots(context.exec(), piece.slice, piece.values(a.data()),
                                               piece.values(b.data()), combined, sums);
                        })
      .front();
}

double VqProblem::norm_in(Tokens tokens, const backend::Array<float>& x) const {
  backend::Array<float> product(context, x.size());
  product_with(tokens, x, product);
  return dot(x, product);
}

double VqProblem::hessian_norm(const backend::Array<float>& x) const { return norm_in(Tokens::fitted, x); }

double VqProblem::undamped_norm(const backend::Array<float>& x, double damped) const {
  const double added = metrics.front().prepared->added;
  if (std::all_of(metrics.begin(), metrics.end(),
                  [&](const VqMetric& metric) { return metric.prepared->added == added; }))
    return added > 0 ? damped - added * dot(x, x) : damped;
  backend::Array<float> product = x.clone();
  for (const VqPiece& piece : rows.pieces)
    context.nn().scale(context.exec(), geometry.in_features * piece.slice.width,
                       static_cast<float>(metrics[core::index(piece.row_group)].prepared->added),
                       product.data() + piece.first_value);
  return damped - dot(x, product);
}

double VqProblem::held_out_norm(const backend::Array<float>& x) const { return norm_in(Tokens::held_out, x); }

}  // namespace voronoi::quant
