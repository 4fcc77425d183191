// What codes are fitted to where the input they will see is not the one that the weight was trained on.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "backend/device.h"
#include "quant/cost.h"
#include "quant/site.h"

namespace voronoi::quant {

/// How much is taken of the share that is best for a linear by itself: all linears behind an error correct it, each as
/// if it were alone. On a small Llama (gptq and voronoi at 2.5 to 5 bits) 0.5 to 0.75 beat 1 and 0.25 everywhere.
inline constexpr double kTargetTrust = 0.6;
/// The share of the full correction where no held-out tokens tell (GPTAQ's).
inline constexpr double kUnjudgedShare = 0.25;

struct Target {
  std::vector<float> weight;  ///< [out_features, in_features]; empty: the weight itself
  double share = 0;           ///< of the full correction
  double gain = 0;            ///< what it takes off |W y - W x|^2 on held-out tokens, as a share of |W x|^2
};

/// With x the input that the operator will see, y what the unquantized model gives in its place, H = E[x x^T], C =
/// E[(y - x) x^T] and lambda the damping, E|W y - Q x|^2 + lambda |W - Q|^2 is, but for a constant,
///   tr((Q - W*) (H + lambda I) (Q - W*)^T),  W* = W + W C (H + lambda I)^-1:
/// codes are fitted to W* in the metric as it is. What few tokens say of C does not hold for others: of D = W* - W
/// kTargetTrust of the share is taken that is best on held-out tokens, tr(W C' D^T) / tr(D H' D^T) with their moments,
/// in 0..1. Groups of rows have a C and an H each, and one
/// share. A C of nothing but zeros leaves W, and so does a site without `target`. Throws NumericError for a target
/// beyond kLargestWeight.
Target asymmetric_target(backend::Context& context, std::int64_t out_features, std::span<const float> weight,
                         const PreparedSite& site);

/// Operations of both functions here; judged: there are held-out tokens; corrected: the target is another than the
/// weight, which it is not where nothing before was quantized.
Work target_work(std::int64_t out_features, std::int64_t in_features, bool judged, bool corrected);

/// Collective: QuantResult::relative_error of an encoding against the weight itself, where it was fitted to another
/// target.
double error_against_weight(backend::Context& context, core::Team& team, std::int64_t out_features,
                            std::span<const float> weight, const PreparedSite& site, const format::Encoding& encoding);

}  // namespace voronoi::quant
