#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>

#include "bench/bench_gpu.h"
#include "core/error.h"
#include "core/random.h"

namespace voronoi::bench {
namespace {

constexpr double kBatchSeconds = 5e-3;                  ///< calls in a row, so that neither launch nor clock counts
constexpr double kEnoughSeconds = 1, kMostSeconds = 5;  ///< of all runs of a measurement
constexpr int kLeastRuns = 5, kMostRuns = 50, kMostCalls = 1000;
constexpr std::int64_t kDistinct = std::int64_t{4} << 20;

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  const std::size_t half = values.size() / 2;
  return values.size() % 2 == 1 ? values[half] : 0.5 * (values[half - 1] + values[half]);
}

}  // namespace

std::string shape_text(std::int64_t rows, std::int64_t columns) { return fmt::format("{} x {}", rows, columns); }

Bench::Bench(backend::Context& context, bool tiny)
    : context_(context), device_(context.memory().facts(context.exec()).name), tiny_(tiny) {
  if (device_.empty()) device_ = backend::device_name(context.device());
}

backend::Array<float> Bench::values(std::int64_t n, float deviation) {
  const core::CounterRandom random(0, static_cast<std::uint64_t>(n));
  std::vector<float> host(static_cast<std::size_t>(std::min(n, kDistinct)));
  for (std::size_t i = 0; i < host.size(); ++i) host[i] = deviation * static_cast<float>(2 * random.uniform(i) - 1);
  backend::Array<float> device(context_, n);
  const auto bytes = [](std::int64_t count) { return count * std::int64_t{sizeof(float)}; };
  context_.memory().copy_from_host(context_.exec(), host.data(), bytes(std::min(n, kDistinct)), device.data());
  for (std::int64_t filled = kDistinct; filled < n; filled += kDistinct)
    context_.memory().copy_on_device(context_.exec(), device.data(), bytes(std::min(kDistinct, n - filled)),
                                     device.data() + filled);
  return device;
}

double Bench::run_once(int n_calls, const std::function<void()>& body, const std::function<void()>& prepare) {
  using Clock = std::chrono::steady_clock;
  if (prepare) prepare();
  context_.memory().synchronize(context_.exec());
  const auto start = Clock::now();
  for (int call = 0; call < n_calls; ++call) body();
  context_.memory().synchronize(context_.exec());
  return std::max(std::chrono::duration<double>(Clock::now() - start).count() / n_calls, 1e-9);
}

const Measurement& Bench::measure(Measurement what, const std::function<void()>& body,
                                  const std::function<void()>& prepare) {
  run_once(1, body, prepare);  // libraries choose their kernels, memory pools grow
  std::vector<double> runs{run_once(1, body, prepare)};
  double total = runs.front();
  const int n_calls =
      prepare || tiny_ ? 1 : std::clamp(static_cast<int>(std::ceil(kBatchSeconds / total)), 1, kMostCalls);
  if (n_calls > 1) runs.clear();
  const auto enough = [&] {
    const auto n = static_cast<int>(runs.size());
    return n > 0 && (tiny_ || total > kMostSeconds || n >= kMostRuns || (n >= kLeastRuns && total > kEnoughSeconds));
  };
  while (!enough()) {
    runs.push_back(run_once(n_calls, body, prepare));
    total += runs.back() * n_calls;
  }
  what.seconds = median(runs);
  what.n_runs = static_cast<int>(runs.size());
  return record(std::move(what));
}

const Measurement& Bench::record(Measurement done) {
  measurements_.push_back(std::move(done));
  const Measurement& m = measurements_.back();
  fmt::print("{:<12} {:<28} {:<34} {:>11.4f} ms\n", m.part, m.operation, m.shape, 1e3 * m.seconds);
  std::fflush(stdout);
  return m;
}

double Bench::ceiling(const std::string& name) const {
  const auto found = ceilings_.find(name);
  VORONOI_REQUIRE(found != ceilings_.end(), "a ceiling that was not measured");
  return found->second;
}

std::vector<Measurement> Bench::find(const std::string& part, const std::string& operation) const {
  std::vector<Measurement> found;
  for (const Measurement& m : measurements_)
    if (m.part == part && m.operation == operation) found.push_back(m);
  return found;
}

namespace {

std::string rate_text(Unit unit, double rate) {
  switch (unit) {
    case Unit::operations:
      return fmt::format("{:.4g} TFLOP/s", rate * 1e-12);
    case Unit::bytes:
      return fmt::format("{:.4g} GB/s", rate * 1e-9);
    case Unit::steps:
      return fmt::format("{:.4g} k steps/s", rate * 1e-3);
  }
  return {};
}

}  // namespace

std::string table_text(const Bench& bench, const std::vector<Prediction>& predictions,
                       const std::vector<std::string>& failures) {
  std::string text = fmt::format("# {}\n\n", bench.device());
  if (bench.tiny()) text += "Tiny sizes: every line has run, the times mean nothing.\n\n";
  text +=
      "| operation | shape | time | achieved | ceiling | of the ceiling | target "
      "|\n|---|---|---:|---:|---|---:|---:|\n";
  for (const Measurement& m : bench.measurements()) {
    std::string ceiling, share, target;
    if (!m.ceiling.empty()) {
      const double top = bench.ceiling(m.ceiling);
      ceiling = fmt::format("{} {}", m.ceiling, rate_text(m.unit, top));
      share = fmt::format("{:.1f} %", 100 * m.rate() / top);
    }
    if (m.target > 0) target = fmt::format("{:.0f} %", 100 * m.target);
    text += fmt::format("| {} | {} | {:.4g} ms | {} | {} | {} | {} |\n", m.operation, m.shape, 1e3 * m.seconds,
                        rate_text(m.unit, m.rate()), ceiling, share, target);
  }
  if (!predictions.empty()) {
    text +=
        "\nPredicted by the cost model of `voronoi plan` for one device:\n\n"
        "| model | setting | rates | hours | target |\n|---|---|---|---:|---:|\n";
    for (const Prediction& p : predictions)
      text += fmt::format("| {} | {} | {} | {:.3g} | {} |\n", p.model, p.setting, p.rates, p.hours,
                          p.target_hours > 0 ? fmt::format("at most {:.1f}", p.target_hours) : "");
  }
  for (const std::string& failure : failures) text += fmt::format("\nFAILED: {}\n", failure);
  return text;
}

core::Json results_json(const Bench& bench, const std::vector<Prediction>& predictions,
                        const std::vector<std::string>& failures) {
  core::Json ceilings = core::Json::object(), results = core::Json::array(), planned = core::Json::array();
  for (const auto& [name, rate] : bench.ceilings()) ceilings[name] = rate;
  for (const Measurement& m : bench.measurements()) {
    static constexpr const char* kUnits[] = {"flop", "byte", "step"};
    core::Json entry{{"part", m.part},        {"operation", m.operation},
                     {"shape", m.shape},      {"median_seconds", m.seconds},
                     {"runs", m.n_runs},      {"unit", kUnits[static_cast<std::size_t>(m.unit)]},
                     {"per_second", m.rate()}};
    if (!m.ceiling.empty()) {
      entry["ceiling"] = m.ceiling;
      entry["of_ceiling"] = m.rate() / bench.ceiling(m.ceiling);
    }
    if (m.target > 0) entry["target"] = m.target;
    results.push_back(std::move(entry));
  }
  for (const Prediction& p : predictions) {
    planned.push_back(
        {{"model", p.model}, {"setting", p.setting}, {"rates", p.rates}, {"hours", p.hours}, {"stages", p.stages}});
    if (p.target_hours > 0) planned.back()["target_hours"] = p.target_hours;
  }
  return {{"device", bench.device()}, {"tiny", bench.tiny()},   {"ceilings", ceilings},
          {"results", results},       {"predictions", planned}, {"failures", failures}};
}

}  // namespace voronoi::bench
