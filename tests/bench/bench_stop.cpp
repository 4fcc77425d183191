// bench_stop METHOD OUT IN [THREADS]: the longest time in which nobody looks for a stop (core::ThreadPool::stop_when),
// in factoring a Hessian of order IN and in quantizing an operator [OUT, IN]; OUT 0: factoring alone.
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <functional>
#include <vector>

#include "core/random.h"
#include "quant/method.h"

namespace {

using namespace voronoi;
using Clock = std::chrono::steady_clock;

double seconds(Clock::duration duration) { return std::chrono::duration<double>(duration).count(); }

void measure(backend::Context& context, const char* what, const std::function<void()>& work) {
  const Clock::time_point begin = Clock::now();
  Clock::time_point last = begin;
  Clock::duration longest{};
  const auto look = [&] {
    const Clock::time_point now = Clock::now();
    longest = std::max(longest, now - last);
    last = now;
    return false;
  };
  context.pool().stop_when(look, std::chrono::nanoseconds{0});
  work();
  look();
  context.pool().stop_when(nullptr);
  fmt::print("{}: {:.2f} s, at most {:.3f} s without a look\n", what, seconds(last - begin), seconds(longest));
}

std::vector<float> random_values(std::int64_t n, float size, std::uint64_t stream) {
  const core::CounterRandom random(1, stream);
  std::vector<float> values(static_cast<std::size_t>(n));
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = size * static_cast<float>(random.uniform(i) - 0.5);
  return values;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 4) {
    fmt::print(stderr, "usage: bench_stop METHOD OUT IN [THREADS]\n");
    return 2;
  }
  const std::int64_t out = std::atoll(argv[2]), in = std::atoll(argv[3]);
  backend::Context context(backend::Device::cpu, argc > 4 ? std::atoi(argv[4]) : 1);
  // Diagonally dominant, so positive definite.
  std::vector<float> lower = random_values(in * (in + 1) / 2, 1.0F / static_cast<float>(in), 1);
  for (std::int64_t i = 0; i < in; ++i) lower[static_cast<std::size_t>(i * (i + 3) / 2)] = 1;
  quant::PreparedHessian hessian;
  measure(context, "factoring", [&] { hessian = quant::prepare_hessian(context, in, lower, 0.01, true); });
  if (out == 0) return 0;
  const std::vector<float> weight = random_values(out * in, 1, 2);
  quant::QuantParameters parameters;
  parameters.method = argv[1];
  core::SoloTeam team;
  measure(context, argv[1], [&] {
    quant::quantize(context, team, {"layer", out, in, weight, &hessian, core::DType::f16}, parameters);
  });
  return 0;
}
