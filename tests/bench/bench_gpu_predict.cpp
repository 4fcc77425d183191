// From measured rates to the hours of a job.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

#include "bench/bench_gpu.h"
#include "planning/bits.h"
#include "planning/model_sizes.h"
#include "planning/plan.h"
#include "quant/vq/vector_parameters.h"

namespace voronoi::bench {
namespace {

constexpr double kBits = 2;
constexpr double kSecondsAnHour = 3600;

struct Job {
  const char *model, *method;
  double target_hours;
};
constexpr Job kJobs[] = {{"llama-3.1-70b", "voronoi", 1.5},
                         {"llama-3.1-70b", "vptq", 1.5},
                         {"llama-3.1-405b", "voronoi", 0},
                         {"llama-3.1-405b", "vptq", 0}};

planning::PlanRequest request_of(const char* model, const char* method) {
  planning::PlanRequest request;
  request.options.model = model;
  request.options.parameters.method = method;
  request.options.bits = kBits;
  request.options.calibration_sequences = 128;
  request.options.calibration_context = 4096;
  request.config = planning::read_model_config(model);
  planning::resolve_bits(request.options, request.config);
  request.threads = 8;
  request.cuda = true;
  return request;
}

planning::Rates kernel_rates(const Bench& bench, std::int64_t vector_length, std::int64_t centroids) {
  planning::Rates rates = planning::table_rates(backend::Device::cuda, 1);
  std::vector<std::string> assumed;
  const auto take = [&](const char* name, double& rate, const char* part, const std::string& operation,
                        double a_unit = 1) {
    const std::vector<Measurement> found = bench.find(part, operation);
    if (found.empty()) {
      assumed.emplace_back(name);
      return;
    }
    rate = found.front().rate() * a_unit;
    for (const Measurement& m : found) rate = std::min(rate, m.rate() * a_unit);
  };
  take("gemm", rates.gemm, "ceilings", "fp32 products");
  take("forward", rates.forward, "forward", "block forward, Llama-3-70B");
  take("nearest", rates.nearest, "assignment", fmt::format("assignment, k {}, v {}", centroids, vector_length));
  take("gram", rates.gram, "hessian", "Hessian update");
  take("factor", rates.factor, "cholesky", "Cholesky and inverse factor");
  // What a byte of the measured loops stands for: v + 1 additions are 4 (v + 3) bytes, the least at v = 6; 3 v
  // operations for each of 10 candidates are 4 (v + 2) bytes at v = 8.
  take("scattered", rates.scattered, "kmeans", "sums of a k-means step", 7.0 / 36);
  take("seeding", rates.seeding, "kmeans", "potentials of k-means++", 240.0 / 40);
  take("bytes", rates.bytes, "ceilings", "copy in device memory");
  take("steps", rates.steps, "column_loop", "dependent steps");
  rates.device = bench.device();
  rates.assumed = !assumed.empty();
  assumed.insert(assumed.end(), {"link", "disk"});
  rates.origin = fmt::format("measured by bench_gpu{}; assumed: {}", bench.tiny() ? " at sizes that mean nothing" : "",
                             fmt::join(assumed, ", "));
  return rates;
}

/// What the quantizer reaches on a whole operator, of what its kernels reach one by one.
double sustained_share(const Bench& bench) {
  const std::vector<Measurement> whole = bench.find("operator", "operator by voronoi");
  if (whole.empty()) return 1;
  const auto& [parameters, out, in] = operator_case(bench);
  const planning::Rates rates = kernel_rates(bench, parameters.get<quant::VectorParameters>().vector_length,
                                             parameters.get<quant::VectorParameters>().centroids);
  quant::Work work = quant::operator_work(parameters, out, in).total();
  const double waiting = work.steps / rates.steps;
  work.steps = 0;
  const double busy = planning::seconds(work, rates), left = whole.front().seconds - waiting;
  return left > busy ? busy / left : 1;
}

}  // namespace

planning::Rates measured_rates(const Bench& bench, std::int64_t vector_length, std::int64_t centroids) {
  planning::Rates rates = kernel_rates(bench, vector_length, centroids);
  rates.sustained = sustained_share(bench);
  return rates;
}

std::vector<Prediction> predict(const Bench& bench) {
  std::vector<Prediction> predictions;
  for (const Job& job : kJobs) {
    planning::PlanRequest request = request_of(job.model, job.method);
    const quant::QuantParameters& p = request.options.parameters;
    request.rates = measured_rates(bench, p.get<quant::VectorParameters>().vector_length,
                                   p.get<quant::VectorParameters>().centroids);
    const planning::Plan plan = planning::make_plan(request);
    Prediction prediction;
    prediction.model = job.model;
    prediction.setting =
        fmt::format("{}, v {}, k {}, {:.3f} true bits", job.method, p.get<quant::VectorParameters>().vector_length,
                    p.get<quant::VectorParameters>().centroids, plan.true_bits());
    prediction.hours = plan.total_seconds / kSecondsAnHour;
    prediction.target_hours = job.target_hours;
    prediction.rates = request.rates.origin;
    prediction.stages = core::Json::object();
    fmt::print("{}: {} ({})\n", job.model, prediction.setting, prediction.rates);
    for (const planning::PlannedStage& stage : plan.stages) {
      prediction.stages[stage.name] = stage.seconds;
      fmt::print("  {:<28} {:>10.1f} s\n", stage.name, stage.seconds);
    }
    fmt::print("  {:<28} {:>10.2f} hours of one device\n", "total", prediction.hours);
    predictions.push_back(std::move(prediction));
  }
  return predictions;
}

}  // namespace voronoi::bench
