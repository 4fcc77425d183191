#include "planning/rates.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <functional>
#include <utility>
#include <vector>

#include "core/error.h"
#include "core/random.h"
#include "core/types.h"
#include "quant/method.h"

namespace voronoi::planning {
namespace {

using backend::Device;

// One core of a Zen 5 server, AVX-512, fp32 (fp64 for factors); bench_kmeans, bench_forward and the probe gave them.
constexpr double kCoreGemm = 185e9, kCoreNearest = 200e9, kCoreGram = 160e9, kCoreFactor = 35e9, kCoreSeeding = 65e9,
                 kCoreScattered = 2.0e9, kCoreBytes = 8e9;
// Quantizing SmolLM2-135M with gptq, vptq and voronoi at 2 to 4 bits, and its calibration and evaluation, took as long.
constexpr double kCpuSustained = 0.65, kCpuForwardSustained = 0.75;
constexpr double kCpuSteps = 5e6;  ///< dependent kernel calls: they wake no threads inside a piece
// Ranks of one host or of a good network; a local disk or a parallel file system's share.
constexpr double kCpuLink = 2e9, kCpuDisk = 0.4e9;

// NVIDIA H100 SXM: peaks of its data sheet, and the share of them that our kernels are assumed to reach.
constexpr double kFp32Peak = 67e12, kFp64Peak = 67e12, kMemoryPeak = 3.35e12;
constexpr double kTensorPeak = 989e12, kForwardShare = 0.40;  // 16-bit products, of the forward pass alone
constexpr double kGemmShare = 0.60, kNearestShare = 0.40, kGramShare = 0.50, kFactorShare = 0.20, kSeedingShare = 0.20,
                 kMemoryShare = 0.70;
constexpr double kScatterShare = 0.02;  ///< additions for each byte of memory bandwidth: atomics to hot lines
constexpr double kGpuSteps = 1e5;       ///< dependent kernels a second: 10 us each
constexpr double kGpuLink = 10e9, kGpuDisk = 2e9;

constexpr std::pair<const char*, double Rates::*> kNumbers[] = {{"gemm", &Rates::gemm},
                                                                {"forward", &Rates::forward},
                                                                {"nearest", &Rates::nearest},
                                                                {"gram", &Rates::gram},
                                                                {"factor", &Rates::factor},
                                                                {"seeding", &Rates::seeding},
                                                                {"scattered", &Rates::scattered},
                                                                {"bytes", &Rates::bytes},
                                                                {"steps", &Rates::steps},
                                                                {"sustained", &Rates::sustained},
                                                                {"forward_sustained", &Rates::forward_sustained},
                                                                {"link_bytes", &Rates::link_bytes},
                                                                {"disk_bytes", &Rates::disk_bytes}};

/// The quickest of many short runs: on a busy machine some of them are not interrupted.
double elapsed(const std::function<void()>& body) {
  constexpr double kLeastSeconds = 0.25;
  constexpr int kLeastRuns = 5;
  using Clock = std::chrono::steady_clock;
  body();  // caches and pages
  double best = 0, total = 0;
  for (int run = 0; run < kLeastRuns || total < kLeastSeconds; ++run) {
    const auto start = Clock::now();
    body();
    const double took = std::chrono::duration<double>(Clock::now() - start).count();
    best = run == 0 ? took : std::min(best, took);
    total += took;
  }
  return std::max(best, 1e-9);
}

std::vector<float> random_values(std::int64_t n, std::uint64_t stream) {
  const core::CounterRandom random(0, stream);
  std::vector<float> values(static_cast<std::size_t>(n));
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(random.uniform(i) - 0.5);
  return values;
}

void probe_factor(backend::Context& context, Rates& rates) {
  constexpr std::int64_t n = 1024;  // small ones are slower
  const auto order = static_cast<double>(n);
  const auto& linalg = context.linalg();
  std::vector<double> work(static_cast<std::size_t>(n * n));
  rates.factor = 2.0 / 3.0 * order * order * order / elapsed([&] {
                   std::fill(work.begin(), work.end(), 0.1);
                   for (std::int64_t i = 0; i < n; ++i) work[static_cast<std::size_t>(i * (n + 1))] = order;
                   linalg.cholesky_lower_f64(context.exec(), n, work.data(), n);
                   linalg.invert_lower_f64(context.exec(), n, work.data(), n);
                 });
}

void probe_linalg(backend::Context& context, Rates& rates) {
  constexpr std::int64_t n = 512;
  const auto order = static_cast<double>(n);
  const std::vector<float> a = random_values(n * n, 1), b = random_values(n * n, 2);
  std::vector<float> c(a.size());
  const auto& linalg = context.linalg();
  rates.gemm =
      2 * order * order * order / elapsed([&] {
        linalg.gemm_f32(context.exec(), false, true, n, n, n, 1.0F, a.data(), n, b.data(), n, 0.0F, c.data(), n);
      });
  std::vector<std::uint16_t> bits;
  for (const float value : b) bits.push_back(core::float_to_bfloat(value));
  rates.forward =
      2 * order * order * order / elapsed([&] {
        linalg.gemm_16(context.exec(), n, n, n, a.data(), n, core::DType::bf16, bits.data(), n, 0.0F, c.data(), n);
      });
  std::vector<double> sum(n * (n + 1) / 2, 0.0);
  rates.gram = order * order * (order + 1) / elapsed([&] {
                 linalg.gram_accumulate(context.exec(), n, n, a.data(), n, core::DType::f32, sum.data());
               });
  probe_factor(context, rates);
  std::vector<float> big(std::size_t{8} << 20), copy(big.size());
  rates.bytes = 8.0 * static_cast<double>(big.size()) / elapsed([&] {
                  context.pool().parallel_for(64, [&](std::int64_t i) {
                    const std::size_t part = big.size() / 64, first = static_cast<std::size_t>(i) * part;
                    std::memcpy(copy.data() + first, big.data() + first, part * sizeof(float));
                  });
                });
}

void probe_vectors(backend::Context& context, const quant::QuantParameters& parameters, Rates& rates) {
  constexpr std::int64_t n = 8192, n_candidates = 10;
  const quant::PublicLayout layout =
      quant::find_method(parameters.method).public_layout(parameters).value_or(quant::PublicLayout{4, 256});
  const std::int64_t dim = layout.vector_length, k = layout.centroids;
  const auto points_times_dim = static_cast<double>(n * dim);
  const std::vector<float> points = random_values(n * dim, 3), centroids = random_values(k * dim, 4),
                           weights(static_cast<std::size_t>(n), 1.0F);
  std::vector<float> distance2(static_cast<std::size_t>(n), 1.0F);
  std::vector<std::int32_t> index(static_cast<std::size_t>(n), 0);
  const auto& vq = context.vq();
  rates.nearest =
      2 * points_times_dim * static_cast<double>(k) / elapsed([&] {
        vq.nearest(context.exec(), n, dim, points.data(), k, centroids.data(), nullptr, index.data(), distance2.data());
      });
  std::vector<double> block_sums(static_cast<std::size_t>(n / kernels::kPotentialBlock * n_candidates));
  const std::vector<float> candidates = random_values(n_candidates * dim, 5);
  rates.seeding = 3 * points_times_dim * n_candidates / elapsed([&] {
                    vq.potentials(context.exec(), n, dim, points.data(), weights.data(), distance2.data(), n_candidates,
                                  candidates.data(), false, block_sums.data());
                  });
  // A chunk of points a thread, enough of them that clearing the sums does not count.
  const std::int64_t threads = context.n_threads(), chunk = std::max<std::int64_t>(n, 4 * k), all = threads * chunk;
  const std::vector<float> all_points = random_values(all * dim, 6), all_weights(static_cast<std::size_t>(all), 1.0F);
  std::vector<std::int32_t> all_index(static_cast<std::size_t>(all));
  const core::CounterRandom cluster(0, 7);
  for (std::size_t i = 0; i < all_index.size(); ++i)
    all_index[i] = static_cast<std::int32_t>(cluster.below(i, static_cast<std::uint64_t>(k)));
  std::vector<std::int64_t> chunk_begin;
  for (std::int64_t i = 0; i <= threads; ++i) chunk_begin.push_back(i * chunk);
  std::vector<double> sums(static_cast<std::size_t>(threads * (k * (dim + 1) + 1)));
  rates.scattered = static_cast<double>(all * (dim + 1)) / elapsed([&] {
                      vq.centroid_sums(context.exec(), threads, chunk_begin.data(), dim, all_points.data(),
                                       all_weights.data(), all_index.data(), all_weights.data(), k, false, sums.data());
                    });
}

}  // namespace

Rates table_rates(Device device, int n_threads) {
  Rates rates;
  if (device == Device::cuda) {
    rates.device = "NVIDIA H100 SXM";
    rates.origin = fmt::format(
        "assumed, not measured: {:.0f} % of the 16-bit peak for the forward pass, {:.0f} % of the fp32 peak for "
        "products, {:.0f} % for nearest centroids, {:.0f} % for Hessians, {:.0f} % of the fp64 peak for factors, "
        "{:.0f} % of the memory bandwidth, {:.0f} us a dependent kernel",
        100 * kForwardShare, 100 * kGemmShare, 100 * kNearestShare, 100 * kGramShare, 100 * kFactorShare,
        100 * kMemoryShare, 1e6 / kGpuSteps);
    rates.assumed = true;
    rates.gemm = kGemmShare * kFp32Peak;
    rates.forward = kForwardShare * kTensorPeak;
    rates.nearest = kNearestShare * kFp32Peak;
    rates.gram = kGramShare * kFp32Peak;
    rates.factor = kFactorShare * kFp64Peak;
    rates.seeding = kSeedingShare * kFp32Peak;
    rates.scattered = kScatterShare * kMemoryPeak;
    rates.bytes = kMemoryShare * kMemoryPeak;
    rates.steps = kGpuSteps;
    rates.link_bytes = kGpuLink;
    rates.disk_bytes = kGpuDisk;
    return rates;
  }
  rates.device = fmt::format("{} CPU thread{}", n_threads, n_threads == 1 ? "" : "s");
  rates.origin = "measured on a core of a Zen 5 server, times the threads; --probe measures this machine";
  rates.gemm = rates.forward = kCoreGemm * n_threads;
  rates.nearest = kCoreNearest * n_threads;
  rates.gram = kCoreGram * n_threads;
  rates.factor = kCoreFactor * n_threads;
  rates.seeding = kCoreSeeding * n_threads;
  rates.scattered = kCoreScattered * n_threads;
  rates.bytes = kCoreBytes * n_threads;
  rates.sustained = kCpuSustained;
  rates.forward_sustained = kCpuForwardSustained;
  rates.steps = kCpuSteps;
  rates.link_bytes = kCpuLink;
  rates.disk_bytes = kCpuDisk;
  return rates;
}

Rates probe_rates(backend::Context& context, const quant::QuantParameters& parameters) {
  VORONOI_REQUIRE(context.device() == Device::cpu, "the probe times the CPU's kernels");
  Rates rates = table_rates(context.device(), context.n_threads());
  rates.origin = "measured on this machine by the probe (link and disk assumed)";
  rates.assumed = false;
  probe_linalg(context, rates);
  probe_vectors(context, parameters, rates);
  return rates;
}

double forward_rate(const Rates& rates, Device device, const std::string& dtype) {
  const bool in_16_bits = device == Device::cuda ? dtype != "f32" : dtype == "bf16";
  return (in_16_bits ? rates.forward : rates.gemm) * rates.forward_sustained;
}

double sweep_rate(const Rates& rates, Device device, const std::string& dtype) {
  return forward_rate(rates, device, device == Device::cuda ? "f32" : dtype);
}

double seconds(const quant::Work& work, const Rates& rates) {
  const double busy = work.gemm / rates.gemm + work.nearest / rates.nearest + work.seeding / rates.seeding +
                      work.scattered / rates.scattered + work.bytes / rates.bytes;
  return busy / rates.sustained + work.factor / rates.factor + work.steps / rates.steps;
}

core::Json rates_json(const Rates& rates) {
  core::Json json{{"device", rates.device}, {"origin", rates.origin}, {"assumed", rates.assumed}};
  for (const auto& [name, member] : kNumbers) json[name] = rates.*member;
  return json;
}

Rates read_rates(const std::string& path) {
  const core::Json json = core::read_json_file(path);
  const auto entry = [&](const char* name) -> const core::Json& {
    if (!json.is_object() || !json.contains(name))
      throw core::FormatError(path, fmt::format("has no '{}'; bench_gpu writes such files", name));
    return json.at(name);
  };
  Rates rates;
  if (!entry("device").is_string() || !entry("origin").is_string() || !entry("assumed").is_boolean())
    throw core::FormatError(path, "'device' and 'origin' must be texts, 'assumed' true or false");
  rates.device = entry("device").get<std::string>();
  rates.origin = entry("origin").get<std::string>();
  rates.assumed = entry("assumed").get<bool>();
  for (const auto& [name, member] : kNumbers) {
    if (!entry(name).is_number() || !(entry(name).get<double>() > 0))
      throw core::FormatError(path, fmt::format("'{}' must be a number above 0", name));
    rates.*member = entry(name).get<double>();
  }
  return rates;
}

}  // namespace voronoi::planning
