#include "quant/vq/problem.h"

#include <cmath>
#include <cstddef>
#include <span>

#include "core/error.h"
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
  const PreparedHessian& prepared = *input.hessian;
  geometry = make_geometry(parameters, input.out_features, input.in_features);
  rows = make_rows(context, geometry, team, input.weight, prepared.perm);
  hessian_ = backend::Array<float>(context, prepared.h.size());
  const backend::DeviceView<std::int32_t> perm(context, prepared.perm);
  context.hessian().permute(context.exec(), prepared.n, prepared.h.data(), perm.data(), hessian_.data());
  hessian = hessian_.data();
  const std::vector<float> undamped = diagonal_of(context, prepared.n, hessian);
  for (const float value : undamped) hessian_diagonal.push_back(value + static_cast<float>(prepared.added));
  const backend::DeviceView<float> damped(context, hessian_diagonal);
  context.hessian().set_diagonal(context.exec(), prepared.n, damped.data(), hessian_.data());
  // An error of a column costs H_nn at once, and 1 / U_nn^2 after the columns behind it have made up for what they can
  // (the loop's own loss). Either alone is worse on real layers: the first counts what is repaired, the second trusts
  // the damping where a few hot columns carry nearly all of H. Their geometric mean gave the least error over the
  // layers of SmolLM2-135M, the hottest one included.
  const std::vector<float> factor_diagonal = diagonal_of(context, prepared.n, prepared.factor.data());
  for (std::size_t p = 0; p < factor_diagonal.size(); ++p)
    importance.push_back(std::sqrt(static_cast<double>(undamped[p])) / static_cast<double>(factor_diagonal[p]));
  weight_norm = undamped_norm(rows.weight, hessian_norm(rows.weight));
}

void VqProblem::product_with(const float* metric, const backend::Array<float>& x,
                             backend::Array<float>& product) const {
  const std::int64_t n = geometry.in_features, width = rows.slice.width;
  if (width == 0) return;
  core::count_product(n, width, n);
  context.linalg().gemm_f32(context.exec(), false, false, n, width, n, 1.0F, metric, n, x.data(), width, 0.0F,
                            product.data(), width);
}

void VqProblem::hessian_product(const backend::Array<float>& x, backend::Array<float>& product) const {
  product_with(hessian, x, product);
}

double VqProblem::dot(const backend::Array<float>& a, const backend::Array<float>& b) const {
  return sum_over_parts(context, team, geometry.n_parts, rows.parts.count, 1,
                        [&](bool combined, double* sums) {
                          context.slice().dots(context.exec(), rows.slice, a.data(), b.data(), combined, sums);
                        })
      .front();
}

double VqProblem::norm_in(const float* metric, const backend::Array<float>& x) const {
  backend::Array<float> product(context, x.size());
  product_with(metric, x, product);
  return dot(x, product);
}

double VqProblem::hessian_norm(const backend::Array<float>& x) const { return norm_in(hessian, x); }

double VqProblem::undamped_norm(const backend::Array<float>& x, double damped) const {
  return input.hessian->added > 0 ? damped - input.hessian->added * dot(x, x) : damped;
}

double VqProblem::held_out_norm(const backend::Array<float>& x) const {
  return norm_in(input.hessian->held_out.data(), x);
}

}  // namespace voronoi::quant
