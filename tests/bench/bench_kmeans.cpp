// Nearest centroids and k-means. Beside the Google Benchmark cases there is one run over vectors from a file, for
// tests/bench/kmeans_vs_faiss.py:
//   bench_kmeans --file VECTORS N DIM K ITERATIONS THREADS WEIGHTS|- CENTROIDS SEED
// VECTORS, WEIGHTS: raw fp32; CENTROIDS [K, DIM] is written; one line of JSON goes to standard output.
// And the column loop beside the search alone:
//   bench_kmeans --column-loop [RUNS]
// on one thread, by its CPU time: scores a second in a loop with feedback over 128 columns of 4096 rows, in `nearest`
// of 12,000 points, and their ratio; the median of the runs, of which one of each kind follows the other.
#include <benchmark/benchmark.h>

#include <algorithm>
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

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

/// Rates of `nearest` and of the column loop in 1e9 scores a second, a pair for each run.
void compare_column_loop(std::int64_t k, std::int64_t v, int runs) {
  constexpr std::int64_t kRows = 4096, kColumns = 128, kPoints = 12000;
  backend::Context context(backend::Device::cpu, 1);
  const auto rate = [](std::int64_t scores, const auto& work) {
    const std::clock_t start = std::clock();
    work();
    return static_cast<double>(scores) * 1e-9 * CLOCKS_PER_SEC / static_cast<double>(std::clock() - start);
  };
  const std::vector<float> points = normal_values(kPoints * v, 1), book = normal_values(k * v, 2);
  std::vector<std::int32_t> index(kPoints);
  const std::int64_t vectors = (kRows + v - 1) / v, width = vectors * v;
  const std::vector<std::int64_t> part_begin = [&] {
    std::vector<std::int64_t> begin;  // 24 vectors a part, as layers have them
    for (std::int64_t row = 0; row < kRows; row += 24 * v) begin.push_back(row);
    begin.push_back(kRows);
    return begin;
  }();
  kernels::VqSlice slice;
  slice.in_features = slice.group_size = kColumns;
  slice.rows = kRows;
  slice.width = width;
  slice.code_stride = vectors;
  slice.v = v;
  slice.k = k;
  slice.n_parts = static_cast<std::int64_t>(part_begin.size()) - 1;
  slice.part_begin = part_begin.data();
  std::vector<float> weight = normal_values(kColumns * width, 3), factor(kColumns * kColumns, 0.0F);
  for (std::int64_t p = 0; p < kColumns; ++p) {
    std::fill(weight.begin() + p * width + kRows, weight.begin() + (p + 1) * width, 0.0F);
    std::fill_n(factor.begin() + p * (kColumns + 1), kColumns - p, 0.01F);
    factor[static_cast<std::size_t>(p * (kColumns + 1))] = 1;
  }
  const std::vector<float> scale(kColumns, 1.0F), bias(kColumns, 0.0F);
  std::vector<std::int32_t> codes(static_cast<std::size_t>(kColumns * vectors));
  std::vector<float> quantized(weight.size());
  std::vector<double> alone, loop, ratio;
  for (int run = 0; run < runs; ++run) {
    // Of a small codebook several rounds, so that the clock tells something.
    const std::int64_t rounds = std::max<std::int64_t>(1, 65536 / k / 4);
    alone.push_back(rate(rounds * kPoints * k, [&] {
      for (std::int64_t round = 0; round < rounds; ++round)
        context.vq().nearest(context.exec(), kPoints, v, points.data(), k, book.data(), nullptr, index.data(), nullptr);
    }));
    std::vector<float> target = weight;
    loop.push_back(rate(kColumns * vectors * k, [&] {
      context.slice().column_loop(context.exec(), slice, {book.data(), nullptr, nullptr, scale.data(), bias.data()}, {},
                                  factor.data(), target.data(), {codes.data(), nullptr}, quantized.data());
    }));
    ratio.push_back(loop.back() / alone.back());
  }
  std::printf("k %6lld v %lld: nearest %.2f, column loop %.2f 1e9 scores/s, ratio %.3f\n", static_cast<long long>(k),
              static_cast<long long>(v), median(alone), median(loop), median(ratio));
  std::fflush(stdout);
}

int run_column_loop(int runs) {
  compare_column_loop(256, 4, runs);
  compare_column_loop(4096, 6, runs);
  compare_column_loop(65536, 8, runs);
  return 0;
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
  if (argc >= 2 && std::strcmp(argv[1], "--column-loop") == 0)
    return voronoi::run_column_loop(argc > 2 ? std::max(1, std::atoi(argv[2])) : 5);
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 2;
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}
