// One operator's quantization as it stands before any code is chosen: what all passes read and none changes.
#pragma once

#include <vector>

#include "backend/tensor.h"
#include "core/team.h"
#include "quant/quantizer.h"
#include "quant/vq/layout.h"

namespace voronoi::quant {

/// What the rows of a group are quantized in.
struct VqMetric {
  const PreparedHessian* prepared = nullptr;
  backend::Array<float> hessian;  ///< [in, in] processing order, damped
  std::vector<float> diagonal;    ///< of it, on the host
  /// [in] What a squared error of a column counts in the training of codebooks.
  std::vector<double> importance;
};

/// References must outlive it. Passes take it const; those that exchange sums are collective over its team.
class VqProblem {
 public:
  VqProblem(backend::Context& context, core::Team& team, const QuantInput& input, const QuantParameters& parameters);

  /// product = H x for x [in, width] of this member's rows, each with its group's H; device. H is damped here and
  /// below: what few tokens say of a direction is not worth a fit.
  void hessian_product(const backend::Array<float>& x, backend::Array<float>& product) const;
  /// sum of a * b over the rows of the whole team. Collective.
  double dot(const backend::Array<float>& a, const backend::Array<float>& b) const;
  /// tr(X H X^T) over the team, X as x [in, width] holds it. Collective.
  double hessian_norm(const backend::Array<float>& x) const;
  /// The same with H undamped, from the damped value.
  double undamped_norm(const backend::Array<float>& x, double damped) const;
  /// The same in the metric of the held-out tokens, of which there must be some.
  double held_out_norm(const backend::Array<float>& x) const;
  /// An error as a share of the weight's norm; 0 where that is 0.
  double relative(double error) const { return weight_norm > 0 ? error / weight_norm : 0; }
  /// Of all groups.
  bool has_held_out() const;

  backend::Context& context;
  core::Team& team;
  const QuantInput& input;
  const QuantParameters& parameters;
  VqGeometry geometry;
  VqRows rows;
  std::vector<VqMetric> metrics;  ///< by row group of the geometry; of a group without rows: but for `prepared` empty
  double weight_norm = 0;         ///< tr(W H W^T), undamped

 private:
  enum class Tokens { fitted, held_out };
  void fill(VqMetric& metric) const;
  void product_with(Tokens tokens, const backend::Array<float>& x, backend::Array<float>& product) const;
  double norm_in(Tokens tokens, const backend::Array<float>& x) const;
};

}  // namespace voronoi::quant
