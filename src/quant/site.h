// A site (the linears that share one input) on its way to its quantizer: the hook before its Hessian is factored, and
// the rotation of its input.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "core/thread_pool.h"
#include "quant/metric.h"
#include "quant/quantizer.h"

namespace voronoi::quant {

/// An orthogonal change y = T x of a site's input, under which Hessian and weights are quantized: W x = (W T') y with
/// T' the transpose, E[y y'] = T H T'.
class InputRotation {
 public:
  virtual ~InputRotation() = default;
  /// T x for each of `rows` vectors x [rows, in_features], in place. Deterministic, on any number of threads.
  virtual void apply(core::ThreadPool& pool, std::int64_t rows, std::span<float> vectors) const = 0;
};

/// What a method keeps of a site for its linears; methods derive their own.
struct SiteState {
  virtual ~SiteState() = default;
  std::unique_ptr<const InputRotation> rotation;  ///< null: the input stays as it is
};

struct SiteLinear {
  std::string name;  ///< full module path
  std::int64_t out_features = 0;
  /// Those it is quantized with; null: those that prepare_site is called with.
  const QuantParameters* parameters = nullptr;
};

/// What Method::prepare_site sees, in the units of the model. Moments and Hessian are those of the team's member 0,
/// which alone prepares them (quant/shared_site.h); nobody looks at the others'.
struct SiteInput {
  std::string name;
  std::int64_t in_features = 0;
  std::vector<SiteLinear> linears;  ///< those that are to be quantized
  /// All that the run quantizes on this input, those that are done already and those with other parameters or a metric
  /// of their own among them: what all linears of a site have to share is found on these, and comes out the same
  /// whenever it is. Empty: `linears` are all.
  std::vector<SiteLinear> whole;
  /// Whether a factor of each input can be moved into what computes the input, with the same model as the result.
  bool input_scale_folds = false;
  /// choose_metric makes `hessian` of them. Of groups of rows: `linears` is one, and the method takes them.
  InputMoments moments;
  std::vector<float> hessian;  ///< packed lower triangle; what stands here after prepare_site is factored
  /// plain_moment() of them, on every member; collective. Null: by the moments here.
  std::function<std::vector<float>()> read_plain_moment;
  std::function<std::vector<float>(const SiteLinear&)> read_weight;  ///< [out_features, in_features]
  core::DType stored_dtype = core::DType::f16;                       ///< as QuantInput's
};

/// For another target than the weight, see quant/target.h: Metric's, [n, n] in processing order and the unit of
/// PreparedHessian::h.
struct TargetMoments {
  backend::Array<float> cross;  ///< empty: the weight is the target
  backend::Array<float> held_out_cross;
  backend::Array<float> held_out;  ///< empty as well where PreparedHessian has it
};

/// Of rows of a linear from first_row on.
struct PreparedRows {
  std::int64_t first_row = 0;
  PreparedHessian hessian;
  TargetMoments target;
};

/// A site ready for quantize() of its linears, or of the only one that has groups of rows.
struct PreparedSite {
  PreparedHessian hessian;  ///< of the rotated input where there is a rotation
  TargetMoments target;     ///< empty where there is a rotation
  std::unique_ptr<const SiteState> state;
  std::vector<PreparedRows> later_groups;  ///< behind the rows that `hessian` and `target` are of; empty: of all

  /// As QuantInput takes them; while this lives.
  std::vector<RowGroup> row_groups() const {
    std::vector<RowGroup> groups;
    for (const PreparedRows& rows : later_groups) groups.push_back({rows.first_row, &rows.hessian});
    return groups;
  }
};

/// The choice of the metrics, the method's prepare_site, the rotation of the Hessian, and its factor. Throws
/// NumericError as they do, on every member alike. Collective; every member has the same, whole site, of member 0's
/// moments.
PreparedSite prepare_site(backend::Context& context, core::Team& team, SiteInput site,
                          const QuantParameters& parameters);

/// What decides how a site of one Hessian is prepared: with the same text prepare_site returns the same, whatever the
/// rest of the parameters. Nothing where the method changes the site.
std::optional<std::string> preparation_key(const QuantParameters& parameters);

}  // namespace voronoi::quant
