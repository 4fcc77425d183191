// The loops of vector quantization: nearest centroids, a step of k-means, the column loop, whole operators.
#include <fmt/format.h>

#include <vector>

#include "bench/bench_gpu.h"
#include "core/team.h"
#include "core/types.h"
#include "quant/cost.h"
#include "quant/method.h"
#include "quant/quantizer.h"
#include "quant/vq/vector_parameters.h"

namespace voronoi::bench {
namespace {

struct Codebook {
  std::int64_t k, v;
};
constexpr Codebook kCodebooks[] = {{65536, 8}, {4096, 6}, {4096, 12}};
constexpr double kAssignmentTarget = 0.5;

/// Points with centroids of a codebook.
struct Points {
  Points(Bench& bench, const Codebook& codebook)
      : n(bench.size(2'000'000, 700)),
        v(codebook.v),
        k(bench.size(codebook.k, codebook.k / 256)),
        points(bench.values(n * v)),
        centroids(bench.values(k * v)),
        index(bench.context(), n),
        distance2(bench.context(), n) {}

  void assign(backend::Context& context) {
    context.vq().nearest(context.exec(), n, v, points.data(), k, centroids.data(), nullptr, index.data(),
                         distance2.data());
  }
  std::string shape() const { return fmt::format("n {}, k {}, v {}", n, k, v); }
  double distances() const { return 2 * static_cast<double>(n * v) * static_cast<double>(k); }

  std::int64_t n, v, k;
  backend::Array<float> points, centroids;
  backend::Array<std::int32_t> index;
  backend::Array<float> distance2;
};

/// A slice of one operator with one codebook and without outliers.
struct Slice {
  Slice(Bench& bench, std::int64_t rows, std::int64_t in_features, std::int64_t v, std::int64_t k)
      : parts{0, rows},
        books(bench.values(k * v)),
        scale(bench.context(), std::vector<float>(static_cast<std::size_t>(in_features), 1.0F)),
        bias(bench.context(), std::vector<float>(static_cast<std::size_t>(in_features), 0.0F)),
        // Feedback as small as that of a Hessian close to diagonal; its size does not change the time.
        factor(bench.values(in_features * in_features, 1e-4F)) {
    slice.in_features = in_features;
    slice.rows = rows;
    slice.width = core::ceil_div(rows, v) * v;
    slice.code_stride = slice.width / v;
    slice.v = v;
    slice.k = k;
    slice.group_size = in_features;
    slice.n_parts = 1;
    slice.part_begin = parts.data();
    backend::Context& context = bench.context();
    context.hessian().set_diagonal(context.exec(), in_features, scale.data(), factor.data());
    const std::int64_t n = in_features * slice.width;
    original = bench.values(n);
    target = backend::Array<float>(context, n);
    quantized = backend::Array<float>(context, n);
    codes = backend::Array<std::int32_t>(context, in_features * slice.code_stride);
  }
  Slice(const Slice&) = delete;
  Slice& operator=(const Slice&) = delete;

  void reset(backend::Context& context) {
    context.memory().copy_on_device(context.exec(), original.data(), 4 * original.size(), target.data());
  }
  void column_loop(backend::Context& context) {
    kernels::VqBooks all;
    all.main = books.data();
    all.scale = scale.data();
    all.bias = bias.data();
    context.slice().column_loop(context.exec(), slice, all, {}, factor.data(), target.data(), {codes.data(), nullptr},
                                quantized.data());
  }

  kernels::VqSlice slice;
  std::vector<std::int64_t> parts;
  backend::Array<float> books, scale, bias, factor, original, target, quantized;
  backend::Array<std::int32_t> codes;
};

}  // namespace

void measure_assignment(Bench& bench) {
  for (const Codebook& codebook : kCodebooks) {
    Points points(bench, codebook);
    bench.measure({"assignment", fmt::format("assignment, k {}, v {}", codebook.k, codebook.v), points.shape(),
                   Unit::operations, points.distances(), kTf32, kAssignmentTarget},
                  [&] { points.assign(bench.context()); });
  }
}

void measure_kmeans(Bench& bench) {
  backend::Context& context = bench.context();
  constexpr std::int64_t kChunks = 64;
  for (const Codebook& codebook : kCodebooks) {
    Points points(bench, codebook);
    const backend::Array<float> weights(context, std::vector<float>(static_cast<std::size_t>(points.n), 1.0F));
    std::vector<std::int64_t> chunks;
    for (std::int64_t chunk = 0; chunk <= kChunks; ++chunk) chunks.push_back(points.n * chunk / kChunks);
    backend::Array<double> sums(context, points.k * (points.v + 1) + 1);
    const auto sum = [&] {
      context.vq().centroid_sums(context.exec(), kChunks, chunks.data(), points.v, points.points.data(), weights.data(),
                                 points.index.data(), points.distance2.data(), points.k, true, sums.data());
    };
    points.assign(context);
    bench.measure({"kmeans", "k-means step", points.shape(), Unit::operations, points.distances(), kTf32}, [&] {
      points.assign(context);
      sum();
    });
    // Points, weight, code and distance, read once.
    bench.measure({"kmeans", "sums of a k-means step", points.shape(), Unit::bytes,
                   static_cast<double>(4 * points.n * (points.v + 3)), kCopy},
                  sum);
  }
  constexpr std::int64_t kCandidates = 10, kDim = 8;
  const std::int64_t n = bench.size(2'000'000, 3000);
  const backend::Array<float> columns = bench.values(n * kDim), weights = bench.values(n),
                              candidates = bench.values(kCandidates * kDim);
  backend::Array<float> distance2 = bench.values(n);
  backend::Array<double> block_sums(context, core::ceil_div(n, kernels::kPotentialBlock) * kCandidates);
  bench.measure({"kmeans", "potentials of k-means++", fmt::format("n {}, v {}, {} candidates", n, kDim, kCandidates),
                 Unit::bytes, static_cast<double>(4 * n * (kDim + 2)), kCopy},
                [&] {
                  context.vq().potentials(context.exec(), n, kDim, columns.data(), weights.data(), distance2.data(),
                                          kCandidates, candidates.data(), false, block_sums.data());
                });
}

void measure_column_loop(Bench& bench) {
  backend::Context& context = bench.context();
  const std::int64_t in = bench.size(8192, 40), v = 6, k = bench.size(4096, 16);
  for (const std::int64_t real_rows : {8192, 28672}) {
    const std::int64_t rows = bench.size(real_rows, real_rows / 512);
    Slice slice(bench, rows, in, v, k);
    const auto weights = static_cast<double>(rows * in);
    // Distances, and what each column owes to those behind it.
    bench.measure(
        {"column_loop", "column loop", fmt::format("{}, k {}, v {}", shape_text(rows, in), k, v), Unit::operations,
         weights * static_cast<double>(2 * k + in), kTf32},
        [&] { slice.column_loop(context); }, [&] { slice.reset(context); });
  }
  // So few rows that only the columns' waiting for one another counts: four steps each, as quant/cost.cpp has it.
  Slice narrow(bench, 48, in, v, k);
  bench.measure(
      {"column_loop", "dependent steps", shape_text(48, in), Unit::steps, 4 * static_cast<double>(in)},
      [&] { narrow.column_loop(context); }, [&] { narrow.reset(context); });
}

OperatorCase operator_case(const Bench& bench) {
  OperatorCase wanted;
  wanted.out = bench.size(4096, 96);
  wanted.in = bench.size(8192, 24);
  wanted.parameters.method = "voronoi";
  wanted.parameters.get<quant::VectorParameters>().vector_length = 6;
  wanted.parameters.get<quant::VectorParameters>().centroids = bench.size(4096, 16);
  return wanted;
}

void measure_operator(Bench& bench) {
  backend::Context& context = bench.context();
  const auto& [parameters, out, in] = operator_case(bench);
  const std::int64_t tokens = in * 3 / 2;
  backend::Array<double> sum(context, in * (in + 1) / 2);
  sum.zero();
  {
    const backend::Array<float> x = bench.values(tokens * in);
    context.linalg().gram_accumulate(context.exec(), tokens, in, x.data(), in, core::DType::f32, sum.data());
  }
  const std::vector<double> wide = sum.to_host();
  std::vector<float> lower(wide.size());
  for (std::size_t i = 0; i < wide.size(); ++i) lower[i] = static_cast<float>(wide[i] / static_cast<double>(tokens));
  const std::vector<float> weight = bench.values(out * in, 0.05F).to_host();

  quant::PreparedHessian hessian;
  bench.measure(
      {"operator", "Hessian prepared", shape_text(in, in), Unit::operations, quant::hessian_work(in).flops(), kFp64},
      [&] { hessian = quant::prepare_hessian(context, in, lower, parameters.damping, true); });
  const quant::QuantInput input{"model.layers.0.self_attn.q_proj", out, in, weight, &hessian};
  core::SoloTeam team;
  bench.measure({"operator", "operator by voronoi",
                 fmt::format("{}, k {}, v {}", shape_text(out, in), parameters.get<quant::VectorParameters>().centroids,
                             parameters.get<quant::VectorParameters>().vector_length),
                 Unit::operations, quant::operator_work(parameters, out, in).total().flops()},
                [&] { quant::find_method(parameters.method).quantize(context, team, input, parameters); });
}

}  // namespace voronoi::bench
