#include "quant/method.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "core/error_context.h"
#include "quant/shared_site.h"
#include "quant/soundness.h"

namespace voronoi::quant {
namespace {

/// A packed lower triangle as both, and T H T' in the place of H.
void rotate_hessian(core::ThreadPool& pool, const InputRotation& rotation, std::int64_t n, std::vector<float>& lower) {
  const auto at = [n](std::int64_t row, std::int64_t column) { return static_cast<std::size_t>(row * n + column); };
  std::vector<float> full(at(n, 0));
  std::size_t next = 0;
  for (std::int64_t i = 0; i < n; ++i)
    for (std::int64_t j = 0; j <= i; ++j) full[at(i, j)] = full[at(j, i)] = lower[next++];
  rotation.apply(pool, n, full);  // H T'
  for (std::int64_t i = 0; i < n; ++i)
    for (std::int64_t j = 0; j < i; ++j) std::swap(full[at(i, j)], full[at(j, i)]);
  rotation.apply(pool, n, full);  // T H T', and its own transpose
  next = 0;
  for (std::int64_t i = 0; i < n; ++i)
    for (std::int64_t j = 0; j <= i; ++j) lower[next++] = full[at(i, j)];
}

void bring_to_unit(const PreparedHessian& hessian, std::vector<float>& values) {
  for (float& value : values) value = std::ldexp(value, -hessian.unit_exponent);
}

/// natural: [n, n], device.
backend::Array<float> in_processing_order(backend::Context& context, const PreparedHessian& hessian,
                                          const float* natural) {
  const backend::DeviceView<std::int32_t> perm(context, hessian.perm);
  backend::Array<float> ordered(context, hessian.n * hessian.n);
  context.hessian().permute(context.exec(), hessian.n, natural, perm.data(), ordered.data());
  return ordered;
}

/// A whole matrix in processing order and the unit of h. Of nothing: nothing.
backend::Array<float> processed(backend::Context& context, const PreparedHessian& hessian, std::vector<float> natural) {
  if (natural.empty()) return {};
  bring_to_unit(hessian, natural);
  const backend::DeviceView<float> matrix(context, natural);
  return in_processing_order(context, hessian, matrix.data());
}

std::int64_t rows_of(const SiteInput& site) {
  return site.linears.empty() ? 1 : std::max<std::int64_t>(1, site.linears.front().out_features);
}

/// All of a prepared site but its state, which is there. metrics: taken.
void prepare_moments(backend::Context& context, SiteInput& site, const QuantParameters& parameters,
                     std::vector<Metric>& metrics, PreparedSite& prepared) {
  const Method& method = find_method(parameters.method);
  const std::int64_t n = site.in_features, rows = rows_of(site);
  const std::vector<RowGroupMoments>& later = site.moments.later_groups;
  const InputRotation* rotation = prepared.state ? prepared.state->rotation.get() : nullptr;
  metrics.front().lower = std::move(site.hessian);
  std::vector<RowMoment> moments;
  for (std::size_t g = 0; g < metrics.size(); ++g) {
    if (rotation != nullptr) rotate_hessian(context.pool(), *rotation, n, metrics[g].lower);
    moments.push_back(
        {metrics[g].lower, (g < later.size() ? later[g].first_row : rows) - (g > 0 ? later[g - 1].first_row : 0)});
  }
  std::vector<PreparedHessian> hessians =
      prepare_hessians(context, n, moments, parameters.damping, parameters.act_order);
  prepared.later_groups.resize(later.size());
  for (std::size_t g = 0; g < metrics.size(); ++g) {
    Metric& metric = metrics[g];
    PreparedHessian& hessian = g == 0 ? prepared.hessian : prepared.later_groups[g - 1].hessian;
    TargetMoments& target = g == 0 ? prepared.target : prepared.later_groups[g - 1].target;
    if (g > 0) prepared.later_groups[g - 1].first_row = later[g - 1].first_row;
    hessian = std::move(hessians[g]);
    metric.lower = std::vector<float>();
    if (parameters.damping > 0) hessian.added *= std::max(1.0, metric.damping / parameters.damping);
    hessian.guided_share = metric.guided_share;
    if (!metric.held_out.empty()) {
      if (rotation != nullptr) rotate_hessian(context.pool(), *rotation, n, metric.held_out);
      bring_to_unit(hessian, metric.held_out);
      backend::Array<float>& held_out = method.judges_held_out() ? hessian.held_out : target.held_out;
      held_out = in_processing_order(context, hessian, both_triangles(context, n, metric.held_out).data());
      metric.held_out = std::vector<float>();
    }
    if (rotation != nullptr) continue;
    target.cross = processed(context, hessian, std::move(metric.cross));
    target.held_out_cross = processed(context, hessian, std::move(metric.held_out_cross));
  }
}

}  // namespace

PreparedSite prepare_site(backend::Context& context, core::Team& team, SiteInput site,
                          const QuantParameters& parameters) {
  PreparedSite prepared;
  const Method& method = find_method(parameters.method);
  const std::int64_t n = site.in_features;
  VORONOI_REQUIRE(site.moments.later_groups.empty() || (method.takes_row_groups() && site.linears.size() == 1),
                  "groups of rows are those of one linear, for a method that takes them");
  std::vector<Metric> metrics;
  on_first_member(team, [&] {
    metrics = choose_metrics(context, n, rows_of(site), site.moments, parameters.damping, method.judges_held_out());
    site.hessian = std::move(metrics.front().lower);
  });
  if (team.size() > 1)
    site.read_plain_moment = [&] {
      return of_first_member(team, team.rank() == 0 ? plain_moment(n, site.moments) : std::vector<float>());
    };
  if (method.changes_site(parameters)) prepared.state = method.prepare_site(context, team, site, parameters);
  on_first_member(team, [&] { prepare_moments(context, site, parameters, metrics, prepared); });
  share_prepared(context, team, n, prepared);
  return prepared;
}

std::optional<std::string> preparation_key(const QuantParameters& parameters) {
  if (find_method(parameters.method).changes_site(parameters)) return std::nullopt;
  return fmt::format("{} {} {} {}", parameters.damping, parameters.act_order, parameters.guided_metric,
                     find_method(parameters.method).judges_held_out());
}

QuantResult quantize(backend::Context& context, core::Team& team, const QuantInput& input,
                     const QuantParameters& parameters) {
  return core::with_context<core::NumericError>(input.name, [&] {
    require_sound_weight(input);
    VORONOI_REQUIRE(input.later_groups.empty() || find_method(parameters.method).takes_row_groups(),
                    "the method takes groups of rows");
    QuantInput given = input;
    std::vector<float> rotated;
    if (input.site != nullptr && input.site->rotation) {
      rotated.assign(input.weight.begin(), input.weight.end());
      input.site->rotation->apply(context.pool(), input.out_features, rotated);
      given.weight = rotated;
    }
    QuantResult result = find_method(parameters.method).quantize(context, team, given, parameters);
    require_sound_result(result);
    return result;
  });
}

StoredBits planned_tuned_bits(const QuantParameters& parameters, std::int64_t out_features, std::int64_t in_features) {
  StoredBits stored = planned_bits(parameters, out_features, in_features);
  stored.scales += find_method(parameters.method).bits_of_tuning(out_features, in_features);
  return stored;
}

StoredBits planned_bits(const QuantParameters& parameters, std::int64_t out_features, std::int64_t in_features) {
  return find_method(parameters.method).stored_bits(parameters, out_features, in_features);
}

double planned_nominal_bits(const QuantParameters& parameters) {
  return find_method(parameters.method).nominal_bits(parameters);
}

}  // namespace voronoi::quant
