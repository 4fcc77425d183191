// VPTQ (Liu et al. 2024, arXiv 2409.17066): weighted k-means, the column loop, a residual codebook trained on what the
// loop leaves and a second loop with both; in the metric of the operator's own units throughout.
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "format/vptq.h"
#include "quant/quantizer.h"
#include "quant/vq/codebooks.h"
#include "quant/vq/layout.h"

namespace voronoi::quant {

const Quantizer& vptq_quantizer();

/// Everything one operator's quantization holds, from the weights to the codes: what vptq and voronoi share.
class VqRun {
 public:
  VqRun(backend::Context& context, core::Team& team, const QuantInput& input, const QuantParameters& parameters);

  /// Codebooks and codes by VPTQ: pass 1 and, with a residual codebook, pass 2 with `candidates` main candidates (1:
  /// greedy).
  void quantize(std::int64_t candidates);
  /// tr((W-Q) H (W-Q)^T) of the current codes, undamped H. Collective.
  double error();
  /// The codes of the whole team packed for storage, and relative_error from the error given.
  QuantResult finish(double error);

  backend::Context& context;
  core::Team& team;
  const QuantInput& input;
  const QuantParameters& parameters;
  VqGeometry geometry;
  ColumnScale columns;
  Codebooks books;
  VqRows rows;
  const float* hessian = nullptr;       ///< [in, in] processing order, undamped; device
  std::vector<float> hessian_diagonal;  ///< of it, on the host
  std::map<std::string, double> statistics;
  double weight_norm = 0;  ///< tr(W H W^T)

 private:
  void train(TrainingSource source, std::int64_t k, const std::string& name, std::vector<float>& book);
  void run_loop(std::int64_t candidates, bool feedback, bool keep_residual);
  double hessian_norm(const backend::Array<float>& x);
  void pack(format::VqEncoding& encoding);
  backend::Array<float> permuted_hessian_;  ///< empty when the processing order is the natural one
  std::vector<float> factor_diagonal_;
};

/// product = H x for x [in, width] of a member's rows; device.
void hessian_product(VqRun& run, const backend::Array<float>& x, backend::Array<float>& product);

/// Scale and bias of every column as stored, processing order: its standard deviation and its mean.
ColumnScale column_scales(backend::Context& context, const QuantInput& input);

}  // namespace voronoi::quant
