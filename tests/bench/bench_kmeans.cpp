// Nearest centroids and k-means. Beside the Google Benchmark cases there is one run over vectors from a file, for
// tests/bench/kmeans_vs_faiss.py:
//   bench_kmeans --file VECTORS N DIM K ITERATIONS THREADS WEIGHTS|- CENTROIDS SEED
// VECTORS, WEIGHTS: raw fp32; CENTROIDS [K, DIM] is written; one line of JSON goes to standard output.
#include <benchmark/benchmark.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <fstream>
#include <random>
#include <string>
#include <vector>

#include "backend/device.h"
#include "core/team.h"
#include "quant/vq/kmeans.h"

namespace voronoi {
namespace {

std::vector<float> normal_values(std::int64_t n, std::uint32_t seed) {
  std::mt19937 engine(seed);
  std::normal_distribution<float> normal;
  std::vector<float> values(static_cast<std::size_t>(n));
  for (float& x : values) x = normal(engine);
  return values;
}

void set_rate(benchmark::State& state, double flops) {
  state.counters["GFLOP/s"] = benchmark::Counter(flops * 1e-9, benchmark::Counter::kIsIterationInvariantRate);
}

// The yardstick: a large product of the same library the linear algebra kernels use.
void sgemm(benchmark::State& state) {
  backend::Context context(backend::Device::cpu, static_cast<int>(state.range(0)));
  const std::int64_t n = 2048;
  const std::vector<float> a = normal_values(n * n, 1), b = normal_values(n * n, 2);
  std::vector<float> c(static_cast<std::size_t>(n * n));
  for (auto _ : state)
    context.linalg().gemm_f32(context.exec(), false, true, n, n, n, 1.0F, a.data(), n, b.data(), n, 0.0F, c.data(), n);
  set_rate(state, 2.0 * static_cast<double>(n * n * n));
}
BENCHMARK(sgemm)->ArgName("threads")->Arg(1)->Arg(2)->UseRealTime()->Unit(benchmark::kMillisecond);

// Arguments: threads, n, dim, k, m (0: nearest with distances).
void nearest(benchmark::State& state) {
  backend::Context context(backend::Device::cpu, static_cast<int>(state.range(0)));
  const std::int64_t n = state.range(1), dim = state.range(2), k = state.range(3), m = state.range(4);
  const std::vector<float> points = normal_values(n * dim, 1), centroids = normal_values(k * dim, 2);
  std::vector<std::int32_t> index(static_cast<std::size_t>(n * std::max<std::int64_t>(m, 1)));
  std::vector<float> distance2(static_cast<std::size_t>(n));
  for (auto _ : state) {
    if (m == 0)
      context.vq().nearest(context.exec(), n, dim, points.data(), k, centroids.data(), nullptr, index.data(),
                           distance2.data());
    else
      context.vq().nearest_m(context.exec(), n, dim, points.data(), k, centroids.data(), nullptr, m, index.data());
    benchmark::ClobberMemory();
  }
  set_rate(state, 2.0 * static_cast<double>(n * k * dim));
}
BENCHMARK(nearest)
    ->ArgNames({"threads", "n", "dim", "k", "m"})
    ->ArgsProduct({{1, 2}, {221184}, {4}, {256}, {0, 8}})
    ->ArgsProduct({{1, 2}, {60000}, {6}, {4096}, {0, 8}})
    ->ArgsProduct({{1, 2}, {12000}, {8}, {65536}, {0, 8}})
    ->UseRealTime()
    ->Unit(benchmark::kMillisecond);

std::vector<std::int64_t> chunks_of(std::int64_t n, std::int64_t n_chunks) {
  std::vector<std::int64_t> chunk_begin;
  for (std::int64_t id = 0; id <= n_chunks; ++id) chunk_begin.push_back(n * id / n_chunks);
  return chunk_begin;
}

// A codebook as the quantizers train it: default stop rule, 16 chunks. Arguments: n; dim 4, k 256.
void kmeans(benchmark::State& state) {
  backend::Context context(backend::Device::cpu, 2);
  core::SoloTeam team;
  const std::int64_t n = state.range(0), dim = 4;
  const std::vector<float> points = normal_values(n * dim, 1), weights(static_cast<std::size_t>(n), 1.0F);
  const std::vector<std::int64_t> chunk_begin = chunks_of(n, 16);
  const quant::KmeansPoints mine{0, chunk_begin, points.data(), weights.data()};
  int iterations = 0;
  for (auto _ : state) iterations = quant::kmeans(context, team, 16, mine, {.k = 256, .dim = dim}).iterations;
  state.counters["iterations"] = iterations;
}
BENCHMARK(kmeans)->ArgName("n")->Arg(28672)->Arg(221184)->UseRealTime()->Unit(benchmark::kMillisecond);

std::vector<float> read_floats(const char* path, std::int64_t n) {
  std::vector<float> values(static_cast<std::size_t>(n));
  std::ifstream file(path, std::ios::binary);
  if (!file.read(reinterpret_cast<char*>(values.data()), n * static_cast<std::int64_t>(sizeof(float)))) {
    std::fprintf(stderr, "cannot read %lld floats from %s\n", static_cast<long long>(n), path);
    std::exit(3);
  }
  return values;
}

int run_file(char** arguments) {
  const std::int64_t n = std::atoll(arguments[1]), dim = std::atoll(arguments[2]), k = std::atoll(arguments[3]);
  const int iterations = std::atoi(arguments[4]), threads = std::atoi(arguments[5]);
  const auto seed = static_cast<std::uint64_t>(std::atoll(arguments[8]));
  const std::vector<float> points = read_floats(arguments[0], n * dim);
  const std::vector<float> weights = std::strcmp(arguments[6], "-") == 0
                                         ? std::vector<float>(static_cast<std::size_t>(n), 1.0F)
                                         : read_floats(arguments[6], n);
  backend::Context context(backend::Device::cpu, threads);
  core::SoloTeam team;
  const std::vector<std::int64_t> chunk_begin = chunks_of(n, 16);
  const quant::KmeansPoints mine{0, chunk_begin, points.data(), weights.data()};
  double cpu_s = 0;  // of all threads, during the last call
  const auto seconds = [&](const quant::KmeansParameters& parameters, quant::KmeansResult& result) {
    const auto start = std::chrono::steady_clock::now();
    const std::clock_t start_cpu = std::clock();
    result = quant::kmeans(context, team, 16, mine, parameters);
    cpu_s = static_cast<double>(std::clock() - start_cpu) / CLOCKS_PER_SEC;
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  };
  quant::KmeansResult started, stepped, whole;
  const double start_s = seconds({.k = k, .dim = dim, .max_iterations = 0, .seed = seed}, started);
  const double whole_s =
      seconds({.k = k, .dim = dim, .max_iterations = iterations, .tolerance = 0, .seed = seed}, whole);
  // The share of the steps: from given centroids, with and without them.
  const double none_s = seconds({.k = k, .dim = dim, .max_iterations = 0, .initial = started.centroids}, stepped);
  const double none_cpu_s = cpu_s;
  const double steps_s = seconds(
      {.k = k, .dim = dim, .max_iterations = iterations, .tolerance = 0, .initial = started.centroids}, stepped);
  const int steps = std::max(1, stepped.iterations);
  std::ofstream(arguments[7], std::ios::binary)
      .write(reinterpret_cast<const char*>(whole.centroids.data()), k * dim * static_cast<std::int64_t>(sizeof(float)));
  std::printf(
      "{\"start_s\": %.6f, \"total_s\": %.6f, \"iteration_s\": %.6f, \"iteration_cpu_s\": %.6f, \"iterations\": %d, "
      "\"first\": %.9g, \"objective\": %.9g}\n",
      start_s, whole_s, (steps_s - none_s) / steps, (cpu_s - none_cpu_s) / steps, whole.iterations,
      whole.objective.front(), whole.objective.back());
  return 0;
}

}  // namespace
}  // namespace voronoi

int main(int argc, char** argv) {
  if (argc == 11 && std::strcmp(argv[1], "--file") == 0) return voronoi::run_file(argv + 2);
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 2;
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}
