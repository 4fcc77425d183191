// The metric a site's linears are quantized in: which second moment of their input, and how much of the identity.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <vector>

#include "backend/device.h"
#include "quant/cost.h"

namespace voronoi::quant {

/// Of a linear whose outputs feel a token's error apart, group by group: what is known of the rows from first_row on,
/// up to the next group's. As InputMoments' own.
struct RowGroupMoments {
  std::int64_t first_row = 0;
  std::span<const float> guided;
  double effective_tokens = 0;
  std::span<const float> held_out_guided, cross_guided, held_out_cross_guided;
};

/// What calibration knows of a linear's input: packed lower triangles of one order, on the host, which must outlive
/// this. Empty: there is none.
struct InputMoments {
  std::span<const float> plain;   ///< E[x x^T]
  std::span<const float> guided;  ///< E[s x x^T], s how much the loss feels an error of the token
  double effective_tokens = 0;    ///< of guided: (sum s)^2 / sum s^2
  std::int64_t tokens = 0;
  std::span<const float> held_out_plain, held_out_guided;  ///< of tokens apart from theirs
  std::int64_t held_out_tokens = 0;
  /// Whole matrices: what belongs to each of the four where the input x is that of a model already changed, E[s (y - x)
  /// x^T] with y the input that the unchanged model has in its place.
  std::span<const float> cross_plain, cross_guided, held_out_cross_plain, held_out_cross_guided;
  /// Gives the memory of all held-out moments but cross ones, once nobody looks at them; null: they stay.
  std::function<void()> drop_held_out;
  /// Behind the first group of rows, of which the guided moments above are; empty: those are of all rows.
  std::vector<RowGroupMoments> later_groups;
};

struct Metric {
  std::vector<float> lower;     ///< packed, in the units of `plain`
  double damping = 0;           ///< share of its mean diagonal that refits add, see choose_metric
  double guided_share = 0;      ///< of the guided moment in it, both scaled to one mean diagonal
  std::vector<float> held_out;  ///< V at the mean diagonal of `lower`; empty: there is none, or nothing is kept apart
  /// [n, n] What belongs to `lower` (of the tokens that are not held out) and to `held_out`; empty: there is none. With
  /// `cross` the held-out V is there in any case: it judges the target.
  std::vector<float> cross, held_out_cross;
};

/// The plain moment of all tokens, held-out ones among them.
std::vector<float> plain_moment(std::int64_t n, const InputMoments& moments);

/// Columns of an inverse that choose_metric has in memory at a time.
inline constexpr std::int64_t kInversePanel = 256;

/// How much a guided moment is believed: the loss's own curvature holds for small errors, and those of 2 bits are not
/// small. On SmolLM2-135M at 2 bits the half beats either alone.
inline constexpr double kGuidedTrust = 0.5;

/// Candidates are guided_share in 0, 1/4 .. 1 at the damping given, then threefold dampings as long as they help. The
/// best is that whose errors would cost least on the held-out tokens: errors that are fitted to H are of covariance
/// det(H)^(1/n) H^-1 (the same for each direction in H's own metric), which costs
///   tr(V H^-1) det(H)^(1/n) / n
/// in the metric V of other tokens, and no less than det(V)^(1/n), at H = V (Stein's loss). V is of both kinds,
/// kGuidedTrust of the guided. The damping is for refits and sweeps, which go as far as their metric leads; an error
/// feedback takes the one given: more, as this rule asks for, made vptq's layers worse on SmolLM2-135M at 2 bits.
/// Without held-out tokens the damping is the one given, and the guided share grows with the effective tokens, to
/// kGuidedTrust: kGuidedTrust e / (e + 4 n). keep_apart: whether the held-out tokens stay out of the metric; else they
/// are put back once it is chosen. Moments without a usable diagonal are left to prepare_hessian.
Metric choose_metric(backend::Context& context, std::int64_t n, const InputMoments& moments, double damping,
                     bool keep_apart);

/// The least scale of a group of rows, see choose_metrics: rows whose errors nobody feels still have a metric to be
/// coded in.
inline constexpr double kLeastGroupScale = 1e-4;

/// choose_metric for each group of the rows of a linear, by its own moments. What they have in common is one objective,
/// the sum over all rows of d H_g d^T, and where rows share something (codebooks, scales of columns), the groups'
/// scales decide for whom it is made. A group's metric therefore has the trace of its guided moment over the mean of
/// all groups, each counted by its rows, in the units of `plain`; its plain part too. Were that part left at one scale
/// for all, a group with less of the guided moment, for want of tokens, would count more or less than its neighbours
/// for a reason that is none of its rows'. The trace itself is one number from all tokens: it can be believed where the
/// n^2 directions cannot. With one group, or equal traces, nothing is scaled. rows: of the linear.
std::vector<Metric> choose_metrics(backend::Context& context, std::int64_t n, std::int64_t rows,
                                   const InputMoments& moments, double damping, bool keep_apart);

/// Operations of choose_metric for an input of n: a factor, its inverse and the trace a candidate, n^3 together where n
/// is large. Expected of dampings: what sampling blurs grows as n / tokens, and the best damping, a share of the mean
/// diagonal, was about as large on SmolLM2-135M. tokens: that are not held out.
Work choice_work(std::int64_t n, bool guided, bool held_out, double tokens, double damping);

/// log of the cost above, H = lower + damping I; nothing where H is not positive definite.
std::optional<double> log_cost_elsewhere(backend::Context& context, std::int64_t n, std::span<const float> lower,
                                         double damping, std::span<const float> elsewhere);

}  // namespace voronoi::quant
