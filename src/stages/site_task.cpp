#include "stages/site_task.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <optional>
#include <set>
#include <span>
#include <utility>

#include "calib/row_groups.h"
#include "core/error.h"
#include "core/error_context.h"
#include "core/log.h"
#include "model/input_scale.h"
#include "planning/window_schedule.h"
#include "quant/shared_site.h"
#include "quant/site.h"
#include "quant/soundness.h"
#include "quant/target.h"
#include "run/layer_store.h"
#include "run/run.h"

namespace voronoi::stages {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

/// A report instead of layers: the text of an error of the disk.
constexpr const char* kUnwritten = "unwritten";

using Group = std::vector<planning::PartLinear>;

/// Of a linear: of the first group of its rows, and of those behind it.
void take_guided(std::span<const calib::GuidedHessian> groups, const model::LinearSpec& linear, std::int64_t row_groups,
                 quant::InputMoments& moments) {
  VORONOI_REQUIRE(std::ssize(groups) == calib::n_row_groups(linear.out_features, row_groups),
                  linear.name + " has a guided Hessian for each group of its rows");
  moments.guided = groups[0].lower;
  moments.effective_tokens = groups[0].effective_tokens;
  moments.held_out_guided = groups[0].held_out;
  moments.cross_guided = groups[0].cross;
  moments.held_out_cross_guided = groups[0].held_out_cross;
  for (const calib::GuidedHessian& group : groups.subspan(1))
    moments.later_groups.push_back({calib::row_group_begin(linear.out_features, row_groups, group.group), group.lower,
                                    group.effective_tokens, group.held_out, group.cross, group.held_out_cross});
}

/// All but the matrices of member 0's Hessian, on the others too. Returns the linears with a guided moment that any row
/// counts in.
std::set<std::string> share_facts(core::Team& team, calib::SiteHessian& stored) {
  core::Json json{{"fault", stored.fault},
                  {"tokens", {stored.n_tokens, stored.held_out_tokens, stored.n_left_out, stored.pooled_tokens}},
                  {"guided", core::Json::array()}};
  for (const calib::GuidedHessian& guided : stored.guided)
    json["guided"].push_back({guided.linear, guided.group, guided.effective_tokens, !guided.lower.empty()});
  json = core::parse_json(quant::of_first_member(team, json.dump()), "what is known of a site");
  std::set<std::string> counted;
  for (const core::Json& guided : json.at("guided"))
    if (guided.at(3).get<bool>()) counted.insert(guided.at(0).get<std::string>());
  if (team.rank() == 0) return counted;
  stored.fault = json.at("fault").get<std::string>();
  const core::Json& tokens = json.at("tokens");
  stored.n_tokens = core::whole_number(tokens.at(0));
  stored.held_out_tokens = core::whole_number(tokens.at(1));
  stored.n_left_out = core::whole_number(tokens.at(2));
  stored.pooled_tokens = core::whole_number(tokens.at(3));
  for (const core::Json& entry : json.at("guided")) {
    calib::GuidedHessian& guided = stored.guided.emplace_back();
    guided.linear = entry.at(0).get<std::string>();
    guided.group = core::whole_number(entry.at(1));
    guided.effective_tokens = entry.at(2).get<double>();
  }
  return counted;
}

/// Those of a group, each once. `only`: the linear that has moments of its own; null: all of them share the plain one.
/// stored: without matrices but on member 0. is_last: nobody else takes what is stored. parameters: of the run that the
/// first of the group belongs to.
quant::SiteInput site_input(const planning::SiteTask& task, const Group& group, calib::SiteHessian& stored,
                            const model::LinearSpec* only, bool is_last, const quant::RunParameters& parameters,
                            const Inputs& inputs) {
  const model::ModelConfig& config = inputs.model->config();
  quant::SiteInput site;
  site.name = task.name();
  site.in_features = task.site.in_features;
  for (const planning::PartLinear& of_part : group)
    if ((only == nullptr || only->name == of_part.linear->name) &&
        std::none_of(site.linears.begin(), site.linears.end(),
                     [&](const quant::SiteLinear& other) { return other.name == of_part.linear->name; }))
      site.linears.push_back({of_part.linear->name, of_part.linear->out_features, parameters.of(of_part.linear->name)});
  for (const model::SiteSpec& all : model::block_sites(config, task.block)) {
    if (all.name != task.site.name) continue;
    for (const model::LinearSpec& linear : all.linears)
      if (const quant::QuantParameters* own = parameters.of(linear.name))
        site.whole.push_back({linear.name, linear.out_features, own});
  }
  site.input_scale_folds = model::input_scale_folds(config, task.block, task.site);
  site.stored_dtype = config.stored_dtype;
  site.moments.plain = stored.lower;
  site.moments.held_out_plain = stored.held_out;
  site.moments.cross_plain = stored.cross;
  site.moments.held_out_cross_plain = stored.held_out_cross;
  site.moments.tokens = stored.n_tokens;
  site.moments.held_out_tokens = stored.held_out_tokens;
  if (only != nullptr) take_guided(stored.guided_for(only->name), *only, inputs.row_groups, site.moments);
  if (is_last) site.moments.drop_held_out = [&stored] { stored.drop_held_out(); };
  site.read_weight = [&inputs, in_features = site.in_features](const quant::SiteLinear& linear) {
    return read_weight(inputs, linear.name, linear.out_features, in_features);
  };
  return site;
}

planning::ParametersOfRuns parameters_of(const std::vector<run::Run*>& runs) {
  planning::ParametersOfRuns parameters;
  for (const run::Run* run : runs) parameters.push_back(&run->parameters);
  return parameters;
}

/// A site's task on one rank.
class SiteWork {
 public:
  SiteWork(const planning::SharedTask& task, backend::Context& context, core::Team& team, const Inputs& inputs,
           const std::vector<run::Run*>& runs)
      : task_(task), context_(context), team_(team), inputs_(inputs), runs_(runs), reports_(task.parts.size()) {}

  /// stored: member 0's.
  void run(calib::SiteHessian stored) {
    guided_linears_ = share_facts(team_, stored);
    const std::vector<Group> groups = planning::alike_linears(task_, parameters_of(runs_));
    for (const Group& group : groups) {
      try {
        if (!stored.fault.empty()) throw core::NumericError(stored.fault);
        quantize_alike(group, &group == &groups.back(), stored);
      } catch (const core::NumericError& error) {  // of the Hessian, which all linears share
        give_up(group, error);
      } catch (const model::BadValues& error) {  // of a weight that the method looked at for the whole site
        give_up(group, error);
      }
    }
  }

  std::string report() const {
    if (unwritten_)
      return core::Json{{kUnwritten, unwritten_->what()}, {"code", static_cast<int>(unwritten_->exit_code())}}.dump();
    core::Json parts = core::Json::array();
    for (std::size_t i = 0; i < reports_.size(); ++i)
      parts.push_back(
          {{"run", task_.parts[i].run}, {"layers", reports_[i].layers}, {"failures", reports_[i].failures}});
    return core::Json{{"parts", parts}}.dump();
  }

 private:
  struct PartReport {
    core::Json layers = core::Json::array(), failures = core::Json::array();
  };

  void give_up(std::size_t i, const model::LinearSpec& linear, const core::Error& error) {
    reports_[i].failures.push_back({{"name", linear.name}, {"error", error.what()}});
  }
  void give_up(const Group& group, const core::Error& error) {
    for (const planning::PartLinear& of_part : group) give_up(of_part.part, *of_part.linear, error);
  }

  /// Those that share a prepared site, or one a linear: linear by linear, whose weight is read once for all parts.
  /// is_last: no group comes behind it that needs what is stored.
  void quantize_alike(const Group& group, bool is_last, calib::SiteHessian& stored) {
    std::optional<quant::PreparedSite> shared_site, own_site;
    const planning::PartLinear& first = group.front();
    const bool takes_guided = run_of(first.part).parameters.of(first.linear->name)->guided_metric;
    const std::vector<LinearOfParts> linears = by_linear(group);
    const auto is_guided_linear = [&](const LinearOfParts& one) {
      return takes_guided && guided_linears_.contains(one.linear->name);
    };
    for (std::size_t n = 0; n < linears.size(); ++n) {
      const LinearOfParts& shared = linears[n];
      const bool is_guided = is_guided_linear(shared);
      own_site.reset();
      std::optional<quant::PreparedSite>& site = is_guided ? own_site : shared_site;
      // Stored moments are several times as large as what is made of them.
      const bool is_last_metric =
          is_last && std::all_of(linears.begin() + static_cast<std::ptrdiff_t>(n) + 1, linears.end(),
                                 [&](const LinearOfParts& later) {
                                   return (shared_site || !is_guided) && !is_guided_linear(later);
                                 });
      if (!site) site = prepare(group, stored, is_guided ? shared.linear : nullptr, is_last_metric);
      if (is_last_metric) stored.drop_moments();
      std::vector<float> weight;
      for (const std::size_t i : shared.parts) {
        team_.check_stop();
        try {
          run::LayerRecord layer = quantize_linear(*shared.linear, weight, *site, run_of(i));
          layer.calibration_tokens = stored.n_tokens + stored.held_out_tokens;
          layer.left_out_tokens = stored.n_left_out;
          layer.pooled_tokens = stored.pooled_tokens;
          if (is_guided) {
            const std::span<const calib::GuidedHessian> groups = stored.guided_for(shared.linear->name);
            for (std::size_t g = 0; g < groups.size(); ++g) {
              const std::string which = g == 0 ? "" : fmt::format("_{}", g);
              layer.statistics["guided_share" + which] =
                  (g == 0 ? site->hessian : site->later_groups[g - 1].hessian).guided_share;
              layer.statistics["effective_tokens" + which] = groups[g].effective_tokens;
            }
          }
          reports_[i].layers.push_back(run::to_json(layer));
        } catch (const core::NumericError& error) {
          give_up(i, *shared.linear, error);
        } catch (const model::BadValues& error) {
          give_up(i, *shared.linear, error);
        }
      }
    }
  }

  quant::PreparedSite prepare(const Group& group, calib::SiteHessian& stored, const model::LinearSpec* only,
                              bool is_last) {
    const planning::PartLinear& first = group.front();
    const quant::RunParameters& of_run = run_of(first.part).parameters;
    quant::PreparedSite site =
        quant::prepare_site(context_, team_, site_input(task_.site(), group, stored, only, is_last, of_run, inputs_),
                            *of_run.of(first.linear->name));
    const quant::PreparedHessian* worst = &site.hessian;
    for (const quant::PreparedRows& rows : site.later_groups)
      if (rows.hessian.damping_steps > worst->damping_steps) worst = &rows.hessian;
    if (worst->damping_steps > 0 && team_.rank() == 0)
      core::log_warning("{}: the Hessian needed a damping of {:g} of its mean diagonal to factor",
                        only == nullptr ? task_.site().name() : only->name, worst->damping);
    return site;
  }

  struct LinearOfParts {
    const model::LinearSpec* linear = nullptr;
    std::vector<std::size_t> parts;  ///< those of a group that lack it
  };
  static std::vector<LinearOfParts> by_linear(const Group& group) {
    std::vector<LinearOfParts> linears;
    for (const planning::PartLinear& of_part : group) {
      auto known = std::find_if(linears.begin(), linears.end(),
                                [&](const LinearOfParts& other) { return other.linear->name == of_part.linear->name; });
      if (known == linears.end()) known = linears.insert(linears.end(), {of_part.linear, {}});
      known->parts.push_back(of_part.part);
    }
    return linears;
  }

  const run::Run& run_of(std::size_t i) const { return *runs_[task_.parts[i].run]; }

  /// `weight`: empty, or what was read before.
  run::LayerRecord quantize_linear(const model::LinearSpec& linear, std::vector<float>& weight,
                                   const quant::PreparedSite& site, const run::Run& run) {
    const Clock::time_point start = Clock::now();
    if (weight.empty()) weight = read_weight(inputs_, linear.name, linear.out_features, linear.in_features);
    quant::QuantInput input;
    input.name = linear.name;
    input.out_features = linear.out_features;
    input.in_features = linear.in_features;
    input.weight = weight;
    const quant::Target target = core::with_context<core::NumericError>(linear.name, [&] {
      quant::require_sound_weight(input);
      return quant::asymmetric_target(context_, linear.out_features, weight, site);
    });
    if (!target.weight.empty()) input.weight = target.weight;
    input.hessian = &site.hessian;
    input.later_groups = site.row_groups();
    input.site = site.state.get();
    input.stored_dtype = inputs_.model->config().stored_dtype;
    const quant::QuantResult result = quant::quantize(context_, team_, input, *run.parameters.of(linear.name));

    run::LayerRecord layer;
    layer.name = linear.name;
    layer.weights = linear.out_features * linear.in_features;
    layer.stored_bits = format::stored_bits(result.encoding);
    layer.nominal_bits = format::nominal_bits(result.encoding);
    layer.relative_error = result.relative_error;
    layer.statistics = core::Json::object();
    for (const auto& [name, value] : result.statistics) layer.statistics[name] = value;
    if (!site.target.cross.empty()) {
      layer.statistics["target_share"] = target.share;
      layer.statistics["target_gain"] = target.gain;
      layer.statistics["error_against_weight"] =
          target.weight.empty()
              ? result.relative_error
              : quant::error_against_weight(context_, team_, linear.out_features, weight, site, result.encoding);
    }
    if (team_.rank() == 0) {
      try {
        layer.sha256 = run::write_layer(*run.start, linear.name, layer.generation, result);
      } catch (const store::Superseded&) {
        throw;
      } catch (const core::StoreError& error) {
        unwritten_ = error;
      }
    }
    layer.seconds = seconds_since(start);
    return layer;
  }

  const planning::SharedTask& task_;
  backend::Context& context_;
  core::Team& team_;
  const Inputs& inputs_;
  const std::vector<run::Run*>& runs_;
  std::set<std::string> guided_linears_;
  std::vector<PartReport> reports_;
  std::optional<core::StoreError> unwritten_;  ///< when a result cannot be published
};

}  // namespace

std::vector<float> read_weight(const Inputs& inputs, const std::string& linear, std::int64_t out_features,
                               std::int64_t in_features) {
  std::vector<float> weight(static_cast<std::size_t>(out_features * in_features));
  inputs.model->read({linear + ".weight", {out_features, in_features}}, weight);
  return weight;
}

std::string run_site_task(const planning::SharedTask& task, backend::Context& context, core::Team& team,
                          const Inputs& inputs, const std::vector<run::Run*>& runs, const store::RunPaths& hessians) {
  const planning::SiteTask& site = task.site();
  try {
    const core::StopScope leaves(context.pool(), [&] { return team.stop_requested(); });
    SiteWork work(task, context, team, inputs, runs);
    calib::SiteHessian stored;
    if (team.rank() == 0)
      stored = run::read_hessian(hessians, site.block, site.site.name, site.site.in_features, inputs.calibration);
    work.run(std::move(stored));
    return work.report();
  } catch (const store::Superseded& error) {
    // No other rank could do better, and the coordinator may be out of reach.
    core::log_error("{}: {}", site.name(), error.what());
    comm::Environment::abort(static_cast<int>(error.exit_code()));
  } catch (core::Error& error) {
    error.add_context(site.name());
    throw;
  }
}

SiteReport read_report(const std::string& report) {
  const core::Json json = core::parse_json(report, "a task's report");
  if (json.contains(kUnwritten))
    throw core::StoreError(json.at(kUnwritten).get<std::string>(),
                           static_cast<core::ExitCode>(json.at("code").get<int>()));
  SiteReport result;
  for (const core::Json& entry : json.at("parts")) {
    SiteReport::Part part{entry.at("run").get<std::size_t>(), {}, {}};
    for (const core::Json& layer : entry.at("layers")) part.layers.push_back(run::layer_from_json(layer));
    for (const core::Json& failure : entry.at("failures"))
      part.failures[failure.at("error").get<std::string>()].push_back(failure.at("name").get<std::string>());
    result.parts.push_back(std::move(part));
  }
  return result;
}

}  // namespace voronoi::stages
