#include "stages/site_task.h"

#include <chrono>

#include "core/error.h"
#include "core/log.h"
#include "planning/window_schedule.h"
#include "run/layer_store.h"
#include "run/run.h"

namespace voronoi::stages {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

/// A report instead of layers: the text of an error of the disk.
constexpr const char* kUnwritten = "unwritten";

/// `unwritten`: set to the error when the result cannot be published.
run::LayerRecord quantize_linear(const model::LinearSpec& linear, const quant::PreparedHessian& hessian,
                                 backend::Context& context, core::Team& team, const Inputs& inputs, const run::Run& run,
                                 std::string& unwritten) {
  const Clock::time_point start = Clock::now();
  std::vector<float> weight(static_cast<std::size_t>(linear.out_features * linear.in_features));
  inputs.model->read({linear.name + ".weight", {linear.out_features, linear.in_features}}, weight);
  quant::QuantInput input;
  input.name = linear.name;
  input.out_features = linear.out_features;
  input.in_features = linear.in_features;
  input.weight = weight;
  input.hessian = &hessian;
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
      layer.sha256 = run::write_layer(*run.attempt, linear.name, layer.generation, result);
    } catch (const store::Superseded&) {
      throw;
    } catch (const core::StoreError& error) {
      unwritten = error.what();
    }
  }
  layer.seconds = seconds_since(start);
  return layer;
}

}  // namespace

std::string run_site_task(const planning::SiteTask& task, backend::Context& context, core::Team& team,
                          const Inputs& inputs, const run::Run& run, const store::RunPaths& hessians) {
  try {
    core::Json layers = core::Json::array(), failures = core::Json::array();
    std::string unwritten;
    const auto give_up = [&](const model::LinearSpec& linear, const core::Error& error) {
      failures.push_back({{"name", linear.name}, {"error", error.what()}});
    };
    try {
      const run::StoredHessian stored =
          run::read_hessian(hessians, task.block, task.site.name, task.site.in_features, inputs.calibration);
      if (!stored.fault.empty()) throw core::NumericError(stored.fault);
      const quant::PreparedHessian hessian = quant::prepare_hessian(context, task.site.in_features, stored.lower,
                                                                    run.parameters.damping, run.parameters.act_order);
      if (hessian.damping_steps > 0 && team.rank() == 0)
        core::log_warning("{}: the Hessian needed a damping of {:g} of its mean diagonal to factor", task.name(),
                          hessian.damping);
      for (const model::LinearSpec& linear : task.site.linears) {
        try {
          run::LayerRecord layer = quantize_linear(linear, hessian, context, team, inputs, run, unwritten);
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
    }
    if (!unwritten.empty()) return core::Json{{kUnwritten, unwritten}}.dump();
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
  if (json.contains(kUnwritten)) throw core::StoreError(json.at(kUnwritten).get<std::string>());
  SiteReport result;
  for (const core::Json& entry : json.at("layers")) result.layers.push_back(run::layer_from_json(entry));
  for (const core::Json& entry : json.at("failures"))
    result.failures[entry.at("error").get<std::string>()].push_back(entry.at("name").get<std::string>());
  return result;
}

}  // namespace voronoi::stages
