#include "planning/run_work.h"

#include <algorithm>
#include <cmath>
#include <tuple>
#include <utility>

#include "calib/planned_counts.h"
#include "core/types.h"
#include "model/transformer.h"
#include "quant/target.h"

namespace voronoi::planning {
namespace {

using core::Counted;

/// Of a linear's codes, codebooks and scales. Shapes come again and again.
class LayerBytes {
 public:
  double of(const quant::QuantParameters& parameters, const model::LinearSpec& linear) {
    const auto [entry, fresh] =
        known_.try_emplace(std::tuple(&parameters, linear.out_features, linear.in_features), 0.0);
    if (fresh)
      entry->second =
          static_cast<double>(quant::planned_bits(parameters, linear.out_features, linear.in_features).total()) / 8;
    return entry->second;
  }

 private:
  std::map<std::tuple<const quant::QuantParameters*, std::int64_t, std::int64_t>, double> known_;
};

/// The site with all of its linears, those that are left alone among them.
model::SiteSpec whole_site(const model::ModelConfig& config, const SiteTask& task) {
  for (model::SiteSpec& site : model::block_sites(config, task.block))
    if (site.name == task.site.name) return std::move(site);
  return task.site;
}

void add_calibration(const PlanRequest& request, const quant::RunParameters& parameters, double bytes_a_weight,
                     RunWork& work) {
  const run::Settings& options = request.options;
  const model::ModelConfig& config = request.config;
  const calib::Calibrated of{config,
                             calib::block_elements(config),
                             options.calibration_sequences,
                             options.calibration_context,
                             request.n_ranks,
                             run::hessian_kind(options),
                             bytes_a_weight};
  std::int64_t last = -1;
  for (std::int64_t block = 0; block < config.n_layers; ++block)
    if (!tasks_of(config, parameters, block, block + 1).empty()) last = block;
  if (of.kind.guided) work.weighing = calib::weighing_counts(of);
  work.collecting = calib::embedding_counts(of);
  LayerBytes layers;
  for (std::int64_t block = 0; block <= last; ++block) {
    const std::vector<SiteTask> tasks = tasks_of(config, parameters, block, block + 1);
    if (!tasks.empty()) {
      work.collecting += calib::collecting_counts(of, block);
      work.gram += calib::block_work(config, block, of.n_sequences, of.context, of.kind).gram;
      for (const SiteTask& task : tasks)
        work.collecting[Counted::hessian_bytes_written] +=
            static_cast<double>(calib::hessian_bytes(whole_site(config, task), of.kind));
    }
    if (!of.kind.sequential && !tasks.empty()) continue;
    if (of.kind.sequential && block == last) continue;
    // Leaves the block as it is, or through what was made of it.
    core::WorkCounts leaving = calib::leaving_counts(of, block);
    for (const model::SiteSpec& site : model::block_sites(config, block))
      for (const model::LinearSpec& linear : site.linears) {
        const quant::QuantParameters* own = of.kind.sequential ? parameters.of(linear.name) : nullptr;
        leaving[own != nullptr ? Counted::layer_bytes_read : Counted::model_bytes] +=
            request.n_ranks * (own != nullptr
                                   ? layers.of(*own, linear)
                                   : bytes_a_weight * static_cast<double>(linear.out_features * linear.in_features));
      }
    work.collecting += leaving;
  }
}

void add_task(const model::ModelConfig& config, const SiteTask& task, const quant::RunParameters& parameters,
              const calib::HessianKind& kind, int width, double bytes_a_weight, LayerBytes& layers, RunWork& work) {
  const SharedTask alone{{{0, task}}};
  const quant::Work factor = preparation_work(alone, {&parameters}, kind);
  work.factor += factor;
  const double members = width;
  core::WorkCounts& counts = work.quantizing;
  // One member prepares the site for all.
  counts[Counted::factor_flops] += factor.factor;
  counts[Counted::hessian_bytes_read] += static_cast<double>(calib::hessian_bytes(whole_site(config, task), kind));
  counts[Counted::team_bytes] += (members - 1) * preparation_bytes(alone, {&parameters}, kind);
  for (const model::LinearSpec& linear : task.site.linears) {
    const quant::QuantParameters& own = *parameters.of(linear.name);
    quant::OperatorWork one = quant::operator_work(own, linear.out_features, linear.in_features);
    // Every member makes the target.
    if (kind.cross)
      one.column_loop +=
          quant::target_work(linear.out_features, linear.in_features, kind.held_out_share > 0, task.block > 0) *
          members;
    work.operators.kmeans += one.kmeans;
    work.operators.column_loop += one.column_loop;
    work.operators.refine += one.refine;
    const quant::Work total = one.total() + one.repeated * (members - 1);
    counts[Counted::gemm_flops] += total.gemm;
    counts[Counted::nearest_flops] += total.nearest;
    counts[Counted::seeding_flops] += total.seeding;
    counts[Counted::factor_flops] += total.factor;
    counts[Counted::team_bytes] += members * quant::received_bytes(one, width);
    counts[Counted::model_bytes] +=
        members * bytes_a_weight * static_cast<double>(linear.out_features * linear.in_features);
    counts[Counted::layer_bytes_written] += layers.of(own, linear);
  }
}

}  // namespace

double stored_bytes_a_weight(const PlanRequest& request) {
  constexpr double kHeaders = 1.1;
  double elements = 0;
  for (const model::TensorSpec& tensor : model::expected_tensors(request.config))
    elements += static_cast<double>(core::element_count(tensor.shape).value_or(0));
  if (request.file_bytes <= 0) return 2;
  const double bytes = static_cast<double>(request.file_bytes) / elements;
  for (const double whole : {1.0, 2.0, 4.0, 8.0})
    if (bytes >= whole && bytes < whole * kHeaders) return whole;
  return bytes;
}

std::vector<SiteTask> tasks_of(const model::ModelConfig& config, const quant::RunParameters& parameters,
                               std::int64_t first, std::int64_t last) {
  std::vector<SiteTask> tasks;
  for (std::int64_t block = first; block < last; ++block)
    for (model::SiteSpec& site : model::block_sites(config, block)) {
      std::erase_if(site.linears,
                    [&](const model::LinearSpec& linear) { return parameters.of(linear.name) == nullptr; });
      if (!site.linears.empty()) tasks.push_back({block, std::move(site)});
    }
  return tasks;
}

std::map<std::string, int> task_widths(const PlanRequest& request, const quant::RunParameters& parameters,
                                       std::int64_t blocks) {
  std::map<std::string, int> widths;
  for (const sched::Task& task :
       window_tasks(tasks_of(request.config, parameters, 0, blocks), parameters, run::hessian_kind(request.options),
                    request.rates, request.n_ranks, request.options.team_size)) {
    const auto entry = widths.try_emplace(task.kind, task.width).first;
    entry->second = std::min(entry->second, task.width);
  }
  return widths;
}

RunWork run_work(const PlanRequest& request, const quant::RunParameters& parameters,
                 const std::map<std::string, int>& widths) {
  RunWork work;
  const double bytes_a_weight = stored_bytes_a_weight(request);
  const calib::HessianKind kind = run::hessian_kind(request.options);
  LayerBytes layers;
  for (const SiteTask& task : tasks_of(request.config, parameters, 0, request.config.n_layers)) {
    const auto width = widths.find(task.kind());
    add_task(request.config, task, parameters, kind, width == widths.end() ? 1 : width->second, bytes_a_weight, layers,
             work);
    if (!request.options.hessians_from.empty())  // looked at before anything is quantized
      work.collecting[Counted::hessian_bytes_read] +=
          static_cast<double>(calib::hessian_bytes(whole_site(request.config, task), kind));
  }
  if (request.options.hessians_from.empty()) add_calibration(request, parameters, bytes_a_weight, work);
  return work;
}

}  // namespace voronoi::planning
