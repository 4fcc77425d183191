#include "stages/site_task.h"

#include <chrono>
#include <optional>

#include "core/error.h"
#include "core/log.h"
#include "planning/window_schedule.h"
#include "quant/site.h"
#include "run/layer_store.h"
#include "run/run.h"

namespace voronoi::stages {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

/// A report instead of layers: the text of an error of the disk.
constexpr const char* kUnwritten = "unwritten";

std::vector<float> read_weight(const Inputs& inputs, const std::string& linear, std::int64_t out_features,
                               std::int64_t in_features) {
  std::vector<float> weight(static_cast<std::size_t>(out_features * in_features));
  inputs.model->read({linear + ".weight", {out_features, in_features}}, weight);
  return weight;
}

quant::SiteInput site_input(const planning::SiteTask& task, std::vector<float> hessian, const Inputs& inputs) {
  quant::SiteInput site;
  site.name = task.name();
  site.in_features = task.site.in_features;
  for (const model::LinearSpec& linear : task.site.linears) site.linears.push_back({linear.name, linear.out_features});
  site.hessian = std::move(hessian);
  site.read_weight = [&inputs, in_features = site.in_features](const quant::SiteLinear& linear) {
    return read_weight(inputs, linear.name, linear.out_features, in_features);
  };
  return site;
}

/// `unwritten`: the error when the result cannot be published.
run::LayerRecord quantize_linear(const model::LinearSpec& linear, const quant::PreparedSite& site,
                                 backend::Context& context, core::Team& team, const Inputs& inputs, const run::Run& run,
                                 std::optional<core::StoreError>& unwritten) {
  const Clock::time_point start = Clock::now();
  const std::vector<float> weight = read_weight(inputs, linear.name, linear.out_features, linear.in_features);
  quant::QuantInput input;
  input.name = linear.name;
  input.out_features = linear.out_features;
  input.in_features = linear.in_features;
  input.weight = weight;
  input.hessian = &site.hessian;
  input.site = site.state.get();
  input.stored_dtype = inputs.model->config().stored_dtype;
  const quant::QuantResult result = quant::quantize(context, team, input, run.parameters);

  run::LayerRecord layer;
  layer.name = linear.name;
  layer.weights = linear.out_features * linear.in_features;
  layer.stored_bits = format::stored_bits(result.encoding);
  layer.nominal_bits = format::nominal_bits(result.encoding);
  layer.relative_error = result.relative_error;
  layer.statistics = core::Json::object();
  for (const auto& [name, value] : result.statistics) layer.statistics[name] = value;
  if (team.rank() == 0) {
    try {
      layer.sha256 = run::write_layer(*run.start, linear.name, layer.generation, result);
    } catch (const store::Superseded&) {
      throw;
    } catch (const core::StoreError& error) {
      unwritten = error;
    }
  }
  layer.seconds = seconds_since(start);
  return layer;
}

}  // namespace

std::string run_site_task(const planning::SiteTask& task, backend::Context& context, core::Team& team,
                          const Inputs& inputs, const run::Run& run, const store::RunPaths& hessians) {
  try {
    const core::StopScope leaves(context.pool(), [&] { return team.stop_requested(); });
    core::Json layers = core::Json::array(), failures = core::Json::array();
    std::optional<core::StoreError> unwritten;
    const auto give_up = [&](const model::LinearSpec& linear, const core::Error& error) {
      failures.push_back({{"name", linear.name}, {"error", error.what()}});
    };
    try {
      run::StoredHessian stored =
          run::read_hessian(hessians, task.block, task.site.name, task.site.in_features, inputs.calibration);
      if (!stored.fault.empty()) throw core::NumericError(stored.fault);
      const quant::PreparedSite site =
          quant::prepare_site(context, site_input(task, std::move(stored.lower), inputs), run.parameters);
      if (site.hessian.damping_steps > 0 && team.rank() == 0)
        core::log_warning("{}: the Hessian needed a damping of {:g} of its mean diagonal to factor", task.name(),
                          site.hessian.damping);
      for (const model::LinearSpec& linear : task.site.linears) {
        team.check_stop();
        try {
          run::LayerRecord layer = quantize_linear(linear, site, context, team, inputs, run, unwritten);
          layer.calibration_tokens = stored.n_tokens;
          layer.left_out_tokens = stored.n_left_out;
          layer.pooled_tokens = stored.pooled_tokens;
          layers.push_back(run::to_json(layer));
        } catch (const core::NumericError& error) {
          give_up(linear, error);
        } catch (const model::BadValues& error) {
          give_up(linear, error);
        }
      }
    } catch (const core::NumericError& error) {  // of the Hessian, which all of them share
      for (const model::LinearSpec& linear : task.site.linears) give_up(linear, error);
    } catch (const model::BadValues& error) {  // of a weight that the method looked at for the whole site
      for (const model::LinearSpec& linear : task.site.linears) give_up(linear, error);
    }
    if (unwritten)
      return core::Json{{kUnwritten, unwritten->what()}, {"code", static_cast<int>(unwritten->exit_code())}}.dump();
    return core::Json{{"layers", layers}, {"failures", failures}}.dump();
  } catch (const store::Superseded& error) {
    // No other rank could do better, and the coordinator may be out of reach.
    core::log_error("{}: {}", task.name(), error.what());
    comm::Environment::abort(static_cast<int>(error.exit_code()));
  } catch (core::Error& error) {
    error.add_context(task.name());
    throw;
  }
}

SiteReport read_report(const std::string& report) {
  const core::Json json = core::parse_json(report, "a task's report");
  if (json.contains(kUnwritten))
    throw core::StoreError(json.at(kUnwritten).get<std::string>(),
                           static_cast<core::ExitCode>(json.at("code").get<int>()));
  SiteReport result;
  for (const core::Json& entry : json.at("layers")) result.layers.push_back(run::layer_from_json(entry));
  for (const core::Json& entry : json.at("failures"))
    result.failures[entry.at("error").get<std::string>()].push_back(entry.at("name").get<std::string>());
  return result;
}

}  // namespace voronoi::stages
