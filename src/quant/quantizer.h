// What goes into every method and comes out of it: weight, Hessian and parameters; codes, codebooks, scales and
// statistics.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "backend/tensor.h"
#include "core/team.h"
#include "core/types.h"
#include "format/encoding.h"
#include "quant/parameters.h"

namespace voronoi::quant {

/// E[x x^T] of one site and its factor, shared by the site's operators. Matrices are in the memory of the context that
/// prepared them, which must outlive it.
struct PreparedHessian {
  std::int64_t n = 0;
  backend::Array<float> h;  ///< [n, n], both triangles: raw mean of x x^T, dead columns' diagonal set to 1 % of the
                            ///< mean (to 1 when no input was ever seen); with the damping when that had to be raised
  /// h is in units of 2^unit_exponent: 0 unless its diagonal is so large or small that products with it would leave
  /// fp32. No result depends on the unit.
  int unit_exponent = 0;
  std::vector<std::int32_t> perm;  ///< processing order: stored position -> natural column
  backend::Array<float> factor;    ///< U [n, n] upper, permuted order: (P (H + damping I) P^T)^-1 = U^T U
  double damping = 0;              ///< share of the mean diagonal that was added in the end
  /// What refits and sweeps add to the diagonal: the damping, or more where held-out tokens ask for it; beyond what h
  /// holds already.
  double added = 0;
  int damping_steps = 0;           ///< how often it had to be raised
  std::int64_t dead_columns = 0;   ///< inputs that were always zero (or negative by no more than rounding)
  double guided_share = 0;         ///< see Metric
  backend::Array<float> held_out;  ///< [n, n], processing order: of other tokens, as Metric::held_out; empty: none
};

/// lower: packed lower triangle of E[x x^T], row by row, n(n+1)/2 values, on the host. damping in 0..1. Computed in
/// fp64. Throws NumericError when H is not finite, has a negative diagonal or does not factor even at the last damping
/// step (1.0).
PreparedHessian prepare_hessian(backend::Context& context, std::int64_t n, std::span<const float> lower, double damping,
                                bool act_order);

/// A second moment, as prepare_hessian takes it, that so many rows of a linear have to themselves.
struct RowMoment {
  std::span<const float> lower;
  std::int64_t rows = 0;
};
/// Of each, in one unit and one processing order: that of their mean's diagonal, each counted by its rows. All rows
/// share the scales of columns and the books of groups of columns, which stand in that order. Throws as
/// prepare_hessian.
std::vector<PreparedHessian> prepare_hessians(backend::Context& context, std::int64_t n,
                                              const std::vector<RowMoment>& moments, double damping, bool act_order);

/// [n, n] of a packed lower triangle on the host.
backend::Array<float> both_triangles(backend::Context& context, std::int64_t n, std::span<const float> lower);

/// Largest magnitude of a weight, and of a weight that an encoding decodes to: that of F16, in which any loader may
/// hold it.
inline constexpr float kLargestWeight = core::kLargestF16;

/// Rows of one product of relative_hessian_error; fixed, so that the sums do not depend on threads.
inline constexpr std::int64_t kErrorRows = 128;

struct SiteState;

/// Rows from first_row on have a Hessian of their own, up to those of the next group.
struct RowGroup {
  std::int64_t first_row = 0;
  const PreparedHessian* hessian = nullptr;  ///< of the same input, unit and processing order
};

struct QuantInput {
  std::string name;  ///< full module path; also the stream of the random numbers
  std::int64_t out_features = 0, in_features = 0;
  std::span<const float> weight;                ///< [out_features, in_features], at most kLargestWeight, on the host
  const PreparedHessian* hessian = nullptr;     ///< prepared by the context that quantizes
  core::DType stored_dtype = core::DType::f16;  ///< type of codebooks and scales; they are rounded before assignment
  const SiteState* site = nullptr;              ///< what Method::prepare_site returned; null: nothing
  std::vector<RowGroup> later_groups{};         ///< rows that `hessian` is not of; for methods that take them
};

/// Rows of one Hessian.
struct HessianRows {
  std::int64_t first = 0, last = 0;
  const PreparedHessian* hessian = nullptr;
};
/// Of all groups of an operator, in order; of one that has none all rows.
std::vector<HessianRows> hessian_rows(const QuantInput& input);

struct QuantResult {
  format::Encoding encoding;
  /// tr((W-Q) H (W-Q)^T) / tr(W H W^T) with the undamped H and Q as decoded from the encoding; 0 for W = 0.
  double relative_error = 0;
  /// Further figures for the report (k-means iterations, error after each pass or round, damping ...): name -> value,
  /// deterministic.
  std::map<std::string, double> statistics;
};

/// Quantizes by parameters.method, and lets nothing through that is not a sound number: throws NumericError naming the
/// operator, and place and remedy, when a weight is not finite or above kLargestWeight, when the arithmetic cannot go
/// on, and when something of the result (codebooks, scales, decoded weights, figures) is not finite or above what its
/// type holds. Where the site has a rotation, the weight is given as the model has it, and the method sees it rotated.
/// Collective as Method::quantize; every member throws alike.
QuantResult quantize(backend::Context& context, core::Team& team, const QuantInput& input,
                     const QuantParameters& parameters);

/// error / energy for error = tr((W-Q) H (W-Q)^T) and energy = tr(W H W^T); 0 when the energy vanishes. Throws
/// NumericError when the error is below zero by more than rounding.
double relative_error_of(double error, double energy);

/// tr((W-Q) H (W-Q)^T) and tr(W H W^T).
struct HessianEnergies {
  double error = 0, energy = 0;
};
/// Collective: the members, who have the same matrices, share the rows; the same bits as by one alone.
HessianEnergies hessian_energies(backend::Context& context, core::Team& team, std::int64_t out_features,
                                 std::int64_t in_features, std::span<const float> weight,
                                 std::span<const float> quantized, const backend::Array<float>& h);
HessianEnergies hessian_energies(backend::Context& context, std::int64_t out_features, std::int64_t in_features,
                                 std::span<const float> weight, std::span<const float> quantized,
                                 const backend::Array<float>& h);

/// relative_error_of both. weight and quantized on the host, h [n, n] in the
/// context's memory.
double relative_hessian_error(backend::Context& context, core::Team& team, std::int64_t out_features,
                              std::int64_t in_features, std::span<const float> weight, std::span<const float> quantized,
                              const backend::Array<float>& h);
double relative_hessian_error(backend::Context& context, std::int64_t out_features, std::int64_t in_features,
                              std::span<const float> weight, std::span<const float> quantized,
                              const backend::Array<float>& h);

}  // namespace voronoi::quant
